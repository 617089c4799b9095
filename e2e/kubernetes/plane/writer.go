package plane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

const (
	writerThreads  = 4                     // goroutines, each with names of its own
	writerNames    = 25                    // config maps per goroutine, written in turn
	writerInterval = 40 * time.Millisecond // between two writes of a goroutine
	sequenceField  = "sequence"
)

// Writer creates and updates config maps in one namespace, continuously, and records each acknowledgement. Nobody else writes them.
type Writer struct {
	maps    typedcorev1.ConfigMapInterface
	stop    context.CancelFunc
	threads sync.WaitGroup

	mu       sync.Mutex
	objects  map[string]*written // by name
	unknown  int                 // writes that ended with an error, their outcome unknown
	breaches []error             // what must never happen, seen while writing
}

// written is what the writer knows of one object.
type written struct {
	revision uint64 // of the last acknowledged write; 0: none
	sequence int    // its content
	tried    []int  // contents of the writes since then whose outcome is unknown
	acked    []uint64
}

// Acknowledgement is one write that kube-apiserver answered with success.
type Acknowledgement struct {
	Name     string
	Revision uint64
}

// StartWriter starts writing. Stop ends it.
func StartWriter(maps typedcorev1.ConfigMapInterface) *Writer {
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writer{maps: maps, stop: cancel, objects: map[string]*written{}}
	for i := range writerThreads {
		w.threads.Add(1)
		go func() {
			defer w.threads.Done()
			w.run(ctx, i)
		}()
	}
	return w
}

// Stop ends the writing. Writes under way have an unknown outcome. It may be called again.
func (w *Writer) Stop() {
	w.stop()
	w.threads.Wait()
}

func (w *Writer) run(ctx context.Context, thread int) {
	tick := time.NewTicker(writerInterval)
	defer tick.Stop()
	base := map[string]string{} // the resourceVersion that the next update of a name is based on
	for sequence := 1; ; sequence++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		name := fmt.Sprintf("written-%d-%02d", thread, sequence%writerNames)
		answer, err := w.write(ctx, name, base[name], sequence)
		if err == nil {
			base[name] = answer.ResourceVersion
			w.acknowledged(name, answer, sequence)
			continue
		}
		w.failed(name, sequence)
		base[name] = w.resync(ctx, name)
	}
}

// write creates the object when base is empty, and otherwise updates it if it still has the resourceVersion base.
func (w *Writer) write(ctx context.Context, name, base string, sequence int) (*corev1.ConfigMap, error) {
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: base, Labels: map[string]string{"writer": "yes"}},
		Data:       map[string]string{sequenceField: strconv.Itoa(sequence)},
	}
	if base == "" {
		return w.maps.Create(ctx, object, metav1.CreateOptions{})
	}
	return w.maps.Update(ctx, object, metav1.UpdateOptions{})
}

func (w *Writer) object(name string) *written {
	if w.objects[name] == nil {
		w.objects[name] = &written{}
	}
	return w.objects[name]
}

func (w *Writer) acknowledged(name string, answer *corev1.ConfigMap, sequence int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.object(name)
	revision, err := strconv.ParseUint(answer.ResourceVersion, 10, 64)
	if err != nil || revision <= o.revision {
		w.breaches = append(w.breaches, fmt.Errorf("%s: write acknowledged at %q after %d", name, answer.ResourceVersion, o.revision))
	}
	o.revision, o.sequence, o.tried = revision, sequence, nil
	o.acked = append(o.acked, revision)
}

func (w *Writer) failed(name string, sequence int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	o := w.object(name)
	o.tried = append(o.tried, sequence)
	w.unknown++
}

// resync reads the object until there is an answer, checks it, and returns its resourceVersion ("" if it does not exist).
func (w *Writer) resync(ctx context.Context, name string) string {
	tick := time.NewTicker(writerInterval)
	defer tick.Stop()
	for {
		found, err := w.maps.Get(ctx, name, metav1.GetOptions{})
		if err == nil || apierrors.IsNotFound(err) {
			if apierrors.IsNotFound(err) {
				found = nil
			}
			w.mu.Lock()
			defer w.mu.Unlock()
			if err := w.object(name).check(found); err != nil {
				w.breaches = append(w.breaches, fmt.Errorf("%s: read after a failed write: %w", name, err))
			}
			if found == nil {
				return ""
			}
			return found.ResourceVersion
		}
		select {
		case <-ctx.Done():
			return ""
		case <-tick.C:
		}
	}
}

// check compares what was read (nil: nothing) with what was acknowledged: the object is there, not older than the last acknowledged write, and
// holds what that write or a later one of unknown outcome put there.
func (o *written) check(found *corev1.ConfigMap) error {
	if found == nil {
		if o.revision != 0 {
			return fmt.Errorf("missing, acknowledged at %d", o.revision)
		}
		return nil
	}
	revision, err := strconv.ParseUint(found.ResourceVersion, 10, 64)
	if err != nil {
		return err
	}
	sequence, err := strconv.Atoi(found.Data[sequenceField])
	if err != nil {
		return err
	}
	switch {
	case revision < o.revision:
		return fmt.Errorf("found at revision %d, acknowledged at %d", revision, o.revision)
	case revision == o.revision && sequence != o.sequence:
		return fmt.Errorf("holds %d at revision %d, acknowledged there with %d", sequence, revision, o.sequence)
	case revision > o.revision && !slices.Contains(o.tried, sequence):
		return fmt.Errorf("holds %d at revision %d; acknowledged %d at %d, tried since %v", sequence, revision, o.sequence, o.revision, o.tried)
	}
	return nil
}

// Check compares the record with list, which holds all config maps of the namespace, and returns everything that is wrong. The writer must
// have been stopped before list was read.
func (w *Writer) Check(list []corev1.ConfigMap) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	faults := slices.Clone(w.breaches)
	found := map[string]*corev1.ConfigMap{}
	for i := range list {
		if list[i].Labels["writer"] == "" {
			continue // kube-root-ca.crt, which every namespace has
		}
		found[list[i].Name] = &list[i]
		if w.objects[list[i].Name] == nil {
			faults = append(faults, fmt.Errorf("%s: exists but was never written", list[i].Name))
		}
	}
	for name, o := range w.objects {
		if err := o.check(found[name]); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(faults...)
}

// Acknowledged is the record of all acknowledged writes, in no particular order, and the number of those with unknown outcome.
func (w *Writer) Acknowledged() (all []Acknowledgement, unknown int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name, o := range w.objects {
		for _, revision := range o.acked {
			all = append(all, Acknowledgement{name, revision})
		}
	}
	return all, w.unknown
}
