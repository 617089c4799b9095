package uml

import (
	"context"
	"fmt"
	"time"

	"github.com/etcdshim/shim/e2e/uml/wire"
)

// cutKind is a way to cut the power; the package says what each is.
type cutKind struct {
	name string
	cut  func(r *run, ctx context.Context, options string) error
}

// kinds are all ways. Each leaves the machine on, the disk honest and not mounted.
var kinds = []cutKind{
	{"off", (*run).cutOff},
	{"drop", (*run).cutDrop},
	{"error", (*run).cutError},
	{"off twice", (*run).cutOffTwice},
	{"drop, off", (*run).cutDropOff},
}

// cut cuts the power under load and recovers.
func (r *run) cut(k cutKind, options string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cutTimeout)
	defer cancel()
	if err := k.cut(r, ctx, options); err != nil {
		return err
	}
	return r.comeBack(ctx, options)
}

func (r *run) off() error {
	return r.machine.PowerOff()
}

func (r *run) cutOff(ctx context.Context, _ string) error {
	if err := r.underLoad(ctx, func(func()) error { return r.off() }); err != nil {
		return err
	}
	return r.boot()
}

// cutOffTwice cuts again at a random moment of the recovery.
func (r *run) cutOffTwice(ctx context.Context, options string) error {
	if err := r.cutOff(ctx, options); err != nil {
		return err
	}
	if err := r.machine.mount(options); err != nil {
		return err
	}
	if err := r.launch(); err != nil {
		return err
	}
	pause(ctx, time.Duration(r.rng.Int64N(int64(recoveryTime))))
	if err := r.off(); err != nil {
		return err
	}
	return r.boot()
}

const (
	// recoveryTime is within which a cut falls into a recovery.
	recoveryTime = 600 * time.Millisecond
	// lyingTime bounds how long shim goes on on a disk that drops its writes.
	lyingTime = 300 * time.Millisecond
)

// pause lets the machine go on for a random time, which is the point of it.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// lie makes the disk drop every write from now on.
func (r *run) lie(ctx context.Context) error {
	return r.underLoad(ctx, func(end func()) error {
		if err := r.machine.suspend(); err != nil {
			return err
		}
		end() // what is answered from here on may be a lie
		if err := r.machine.resume(broken("drop_writes")); err != nil {
			return err
		}
		pause(ctx, time.Duration(r.rng.Int64N(int64(lyingTime))))
		return nil
	})
}

func (r *run) cutDrop(ctx context.Context, _ string) error {
	if err := r.lie(ctx); err != nil {
		return err
	}
	if err := r.machine.Call("Kill", struct{}{}, &wire.Ended{}); err != nil {
		return err
	}
	return r.repair()
}

func (r *run) cutDropOff(ctx context.Context, _ string) error {
	if err := r.lie(ctx); err != nil {
		return err
	}
	if err := r.off(); err != nil {
		return err
	}
	return r.boot()
}

// cutError makes every write fail, of which shim must end, with an exit code that
// says so; every answer until then is owed.
func (r *run) cutError(ctx context.Context, _ string) error {
	err := r.underLoad(ctx, func(func()) error {
		if err := r.machine.suspend(); err != nil {
			return err
		}
		if err := r.machine.resume(broken("error_writes")); err != nil {
			return err
		}
		var ended wire.Ended
		if err := r.machine.Call("AwaitEnd", endBound, &ended); err != nil {
			return fault("writes fail", err)
		}
		if ended.Code <= 0 {
			return fault("writes fail", fmt.Errorf("it ended with %s\n%s", ended.How, ended.Log))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.repair()
}

// repair makes the disk honest again; what the machine has not written is lost.
func (r *run) repair() error {
	if err := r.machine.unmount(); err != nil {
		return err
	}
	if err := r.machine.suspend(); err != nil {
		return err
	}
	return r.machine.resume(honest)
}
