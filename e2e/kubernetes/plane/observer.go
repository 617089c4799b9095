package plane

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

// observerRetry is the pause before the observer asks again after an error.
const observerRetry = 100 * time.Millisecond

// Observer lists and then watches the config maps of a Writer, resuming where a watch ended, and records what it sees. When the place to
// resume at is too old it lists again, as every client of Kubernetes must, and records the gap.
type Observer struct {
	maps typedcorev1.ConfigMapInterface
	stop context.CancelFunc
	done chan struct{}

	mu       sync.Mutex
	seen     map[Acknowledgement]bool
	last     uint64 // the revision up to which everything was seen or lies in a gap
	gaps     []gap
	breaches []error
	moved    chan struct{} // closed and replaced when last moves
}

// gap is an interval of revisions, (after, through], whose changes were not delivered one by one.
type gap struct{ after, through uint64 }

// StartObserver starts observing. Stop ends it.
func StartObserver(maps typedcorev1.ConfigMapInterface) *Observer {
	ctx, cancel := context.WithCancel(context.Background())
	o := &Observer{maps: maps, stop: cancel, done: make(chan struct{}), seen: map[Acknowledgement]bool{}, moved: make(chan struct{})}
	go func() {
		defer close(o.done)
		o.run(ctx)
	}()
	return o
}

// Stop ends the observation. It may be called again.
func (o *Observer) Stop() {
	o.stop()
	<-o.done
}

// run lists and watches until ctx ends.
func (o *Observer) run(ctx context.Context) {
	listed := false
	for ctx.Err() == nil {
		var err error
		if !listed {
			err = o.list(ctx)
			listed = err == nil
		} else if err = o.watch(ctx); apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
			listed = false
			continue
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(observerRetry):
			}
		}
	}
}

// list records the state at one revision; what happened since the last one seen is a gap.
func (o *Observer) list(ctx context.Context) error {
	list, err := o.maps.List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	revision, err := strconv.ParseUint(list.ResourceVersion, 10, 64)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if revision < o.last {
		o.breaches = append(o.breaches, fmt.Errorf("a list at revision %d after a watch event at %d", revision, o.last))
	}
	o.gaps = append(o.gaps, gap{o.last, revision})
	o.advance(revision)
	return nil
}

// watch records events from the last revision on, until the watch ends. The error is the server's, if it ended with one.
func (o *Observer) watch(ctx context.Context) error {
	o.mu.Lock()
	from := strconv.FormatUint(o.last, 10)
	o.mu.Unlock()
	w, err := o.maps.Watch(ctx, metav1.ListOptions{ResourceVersion: from, AllowWatchBookmarks: true})
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return apierrors.FromObject(event.Object)
		}
		object, ok := event.Object.(*corev1.ConfigMap)
		if !ok {
			return fmt.Errorf("event of a %T", event.Object)
		}
		if err := o.event(event.Type, object); err != nil {
			return err
		}
	}
	return nil
}

func (o *Observer) event(kind watch.EventType, object *corev1.ConfigMap) error {
	revision, err := strconv.ParseUint(object.ResourceVersion, 10, 64)
	if err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if kind == watch.Bookmark {
		if revision < o.last {
			o.breaches = append(o.breaches, fmt.Errorf("bookmark at revision %d after %d", revision, o.last))
			return nil
		}
		o.advance(revision)
		return nil
	}
	if revision <= o.last {
		o.breaches = append(o.breaches, fmt.Errorf("event of %s at revision %d after %d", object.Name, revision, o.last))
		return nil
	}
	if kind == watch.Deleted {
		o.breaches = append(o.breaches, fmt.Errorf("%s deleted at revision %d, which nobody did", object.Name, revision))
	}
	o.seen[Acknowledgement{object.Name, revision}] = true
	o.advance(revision)
	return nil
}

// advance needs mu.
func (o *Observer) advance(revision uint64) {
	o.last = revision
	close(o.moved)
	o.moved = make(chan struct{})
}

// Check waits until the observer has come as far as the newest of acks, and returns every acknowledged write that it did not see, and every
// event out of order. gaps is how often it had to list anew, the first list not counted.
func (o *Observer) Check(ctx context.Context, acks []Acknowledgement) (gaps int, err error) {
	newest := uint64(0)
	for _, ack := range acks {
		newest = max(newest, ack.Revision)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for o.last < newest {
		moved := o.moved
		o.mu.Unlock()
		select {
		case <-ctx.Done():
			o.mu.Lock()
			return 0, fmt.Errorf("the watch has come to revision %d only, the newest write is at %d: %w", o.last, newest, ctx.Err())
		case <-moved:
		}
		o.mu.Lock()
	}
	faults := append([]error(nil), o.breaches...)
	for _, ack := range acks {
		if !o.seen[ack] && !o.inGap(ack.Revision) {
			faults = append(faults, fmt.Errorf("write of %s at revision %d was acknowledged but not seen by the watch", ack.Name, ack.Revision))
		}
	}
	return len(o.gaps) - 1, errors.Join(faults...)
}

func (o *Observer) inGap(revision uint64) bool {
	for _, g := range o.gaps {
		if g.after < revision && revision <= g.through {
			return true
		}
	}
	return false
}
