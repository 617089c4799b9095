package backends

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Env is what a backend gets from the process it lives in. Every field is set.
type Env struct {
	Logger *zap.Logger
	// Metrics is a registerer of the process' own registry.
	Metrics prometheus.Registerer
	Clock   Clock
	// Fatal is called, at most once, when the backend cannot go on, such as after
	// a failed fsync: the process must stop. The error tells what an operator
	// should do.
	Fatal func(error)
}

// Clock is time as an argument. Durations are measured on its monotonic reading.
type Clock interface {
	Now() time.Time
	// After sends once, d from now; stop gives the timer back early.
	After(d time.Duration) (c <-chan time.Time, stop func())
}

// SystemClock is the process' clock.
type SystemClock struct{}

// Now is time.Now.
func (SystemClock) Now() time.Time { return time.Now() }

// After is a timer of d.
func (SystemClock) After(d time.Duration) (<-chan time.Time, func()) {
	t := time.NewTimer(d)
	return t.C, func() { t.Stop() }
}

// Driver opens backends of one URL scheme.
type Driver struct {
	// Scheme is the URL's, such as "memory".
	Scheme string
	// Parameters are the query parameters that Open understands; any other is
	// refused before Open is called.
	Parameters []string
	Open       func(ctx context.Context, u *url.URL, env Env) (Backend, error)
}

var registry struct {
	sync.Mutex
	drivers map[string]Driver
}

// Register makes a driver known to Open. It panics when the scheme is taken: two
// packages in one binary disagree, which no user can mend.
func Register(d Driver) {
	registry.Lock()
	defer registry.Unlock()
	if _, taken := registry.drivers[d.Scheme]; taken || d.Scheme == "" || d.Open == nil {
		panic(fmt.Sprintf("backends: scheme %q registered twice, or without an opener", d.Scheme))
	}
	if registry.drivers == nil {
		registry.drivers = make(map[string]Driver)
	}
	registry.drivers[d.Scheme] = d
}

// Schemes lists the registered schemes in order.
func Schemes() []string {
	registry.Lock()
	defer registry.Unlock()
	var s []string
	for scheme := range registry.drivers {
		s = append(s, scheme)
	}
	slices.Sort(s)
	return s
}

// Open opens the backend that rawURL names, such as "memory://". An unknown
// scheme or parameter is an error that lists the known ones.
func Open(ctx context.Context, rawURL string, env Env) (Backend, error) {
	u, err := url.Parse(rawURL)
	if err != nil { // whose text would show the password, or a part of it
		return nil, errors.New("backend URL: it cannot be read; what is special in a user name or password must be percent-encoded")
	}
	registry.Lock()
	d, ok := registry.drivers[u.Scheme]
	registry.Unlock()
	if !ok {
		return nil, fmt.Errorf("backend URL %q: scheme %q is not built into this binary (it has: %s)",
			u.Redacted(), u.Scheme, strings.Join(Schemes(), ", "))
	}
	for p := range u.Query() {
		if !slices.Contains(d.Parameters, p) {
			known := "none"
			if len(d.Parameters) > 0 {
				known = strings.Join(d.Parameters, ", ")
			}
			return nil, fmt.Errorf("backend URL %q: unknown parameter %q (%s takes: %s)", u.Redacted(), p, d.Scheme, known)
		}
	}
	return d.Open(ctx, u, env)
}
