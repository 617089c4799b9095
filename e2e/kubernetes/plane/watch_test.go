package plane

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	watchedNames  = 5
	watchedRounds = 12 // of changes to each name
	watchedLabel  = "watched"
)

// change is one event, as made or as seen. Revision is 0 where the answer to the change does not tell it (deletions).
type change struct {
	Type     watch.EventType
	Name     string
	Round    string
	Revision uint64
}

// testWatchOrder has `kubectl get -w` see every change, once, in the order in which they were made.
func testWatchOrder(ctx context.Context, t *testing.T, r *run) {
	const namespace = "watched"
	r.createNamespace(ctx, t, namespace)
	r.makeChange(ctx, t, namespace, "first", "0", watch.Added)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kubectl := r.KubectlCommand(ctx, "get", "configmaps", "--namespace="+namespace, "--selector="+watchedLabel,
		"--watch", "--output-watch-events", "--output=json")
	out, err := kubectl.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := kubectl.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = kubectl.Wait() }() // ends by the cancel above, which is deferred earlier and so would run later
	defer cancel()
	seen := make(chan change, watchedNames*watchedRounds) // as many as come, more or less
	go readChanges(out, seen)

	if got := nextChange(ctx, t, seen); got.Name != "first" {
		t.Fatalf("the watch began with %v", got)
	}
	made := r.makeChanges(ctx, t, namespace)
	last := uint64(0)
	for i, want := range made {
		got := nextChange(ctx, t, seen)
		if got.Revision <= last {
			t.Errorf("event %d, %v, comes after revision %d", i, got, last)
		}
		last = got.Revision
		if want.Revision == 0 {
			got.Revision = 0
		}
		if got != want {
			t.Fatalf("event %d is %v, the change was %v", i, got, want)
		}
	}
	t.Logf("%d changes seen in order", len(made))
}

// makeChanges creates each object, updates it round by round, deletes and recreates one in each round, and ends with deletions.
func (r *run) makeChanges(ctx context.Context, t *testing.T, namespace string) []change {
	t.Helper()
	var made []change
	alive := map[string]bool{}
	for round := range watchedRounds {
		for n := range watchedNames {
			name := fmt.Sprintf("object-%d", n)
			kind := watch.Modified
			switch {
			case !alive[name]:
				kind = watch.Added
			case round == watchedRounds-1 || round%watchedNames == n:
				kind = watch.Deleted
			}
			alive[name] = kind != watch.Deleted
			made = append(made, r.makeChange(ctx, t, namespace, name, fmt.Sprint(round), kind))
		}
	}
	return made
}

func (r *run) makeChange(ctx context.Context, t *testing.T, namespace, name, round string, kind watch.EventType) change {
	t.Helper()
	maps := r.Client.CoreV1().ConfigMaps(namespace)
	object := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{watchedLabel: "yes"}},
		Data:       map[string]string{"round": round},
	}
	var answer *corev1.ConfigMap
	var err error
	switch kind {
	case watch.Added:
		answer, err = maps.Create(ctx, object, metav1.CreateOptions{})
	case watch.Modified:
		answer, err = maps.Update(ctx, object, metav1.UpdateOptions{})
	case watch.Deleted:
		// The event of a deletion shows the object as it was.
		if object, err = maps.Get(ctx, name, metav1.GetOptions{}); err == nil {
			round = object.Data["round"]
			err = maps.Delete(ctx, name, metav1.DeleteOptions{})
		}
	}
	if err != nil {
		t.Fatalf("%s %s: %v", kind, name, err)
	}
	c := change{Type: kind, Name: name, Round: round}
	if answer != nil {
		c.Revision = revisionOf(t, answer.ResourceVersion)
	}
	return c
}

// readChanges decodes what kubectl prints until it ends, and closes seen then.
func readChanges(out io.Reader, seen chan<- change) {
	defer close(seen)
	for in := json.NewDecoder(out); ; {
		var event struct {
			Type   watch.EventType  `json:"type"`
			Object corev1.ConfigMap `json:"object"`
		}
		if err := in.Decode(&event); err != nil {
			return // the pipe ends with kubectl; a reader that misses an event says so
		}
		var revision uint64
		_, _ = fmt.Sscan(event.Object.ResourceVersion, &revision) // 0 fails the check of the order
		seen <- change{event.Type, event.Object.Name, event.Object.Data["round"], revision}
	}
}

func nextChange(ctx context.Context, t *testing.T, seen <-chan change) change {
	t.Helper()
	select {
	case c, ok := <-seen:
		if !ok {
			t.Fatal("kubectl get -w ended")
		}
		return c
	case <-ctx.Done():
		t.Fatalf("kubectl get -w shows no further event: %v", ctx.Err())
	}
	return change{}
}

// testPagedLists reads config maps (which kube-apiserver may answer from its watch cache) page by page; events, which it never caches, are
// paged by testEvents. kubectl's own paging must agree.
func testPagedLists(ctx context.Context, t *testing.T, r *run) {
	const namespace, count, limit = "paged", 53, 10
	r.createNamespace(ctx, t, namespace)
	maps := r.Client.CoreV1().ConfigMaps(namespace)
	create := func(name string) {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := maps.Create(ctx, object, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// The controller manager puts this one into each namespace; it comes when it comes.
	until(ctx, t, "kube-root-ca.crt", func() (bool, error) {
		_, err := maps.Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
		return err == nil, nil
	})
	want := []string{"kube-root-ca.crt"}
	for i := range count - 1 {
		name := fmt.Sprintf("page-%02d", i)
		create(name)
		want = append(want, name)
	}
	list := func(options metav1.ListOptions) (metav1.ListInterface, []string, error) {
		l, err := maps.List(ctx, options)
		var names []string
		for _, m := range l.Items {
			names = append(names, m.Name)
		}
		return l, names, err
	}
	checkPages(t, list, limit, want, func() { create("page-later") })

	var listed struct {
		Items []corev1.ConfigMap `json:"items"`
	}
	out := r.kubectl(ctx, t, "", "get", "configmaps", "--namespace="+namespace, "--chunk-size=7", "--output=json")
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed.Items) != count+1 {
		t.Errorf("kubectl get --chunk-size=7: %d objects, %v; want %d", len(listed.Items), err, count+1)
	}
}

// checkPages reads a list in pages of limit and ensures that together they are want, at one revision, though between does add objects to it
// after the first page; and that each page says how many objects are left.
func checkPages(t *testing.T, list func(metav1.ListOptions) (metav1.ListInterface, []string, error), limit int, want []string, between func()) {
	t.Helper()
	var got []string
	var revision string
	for token := ""; ; {
		page, names, err := list(metav1.ListOptions{Limit: int64(limit), Continue: token})
		if err != nil {
			t.Fatal(err)
		}
		if revision == "" {
			revision = page.GetResourceVersion()
			between()
		}
		if page.GetResourceVersion() != revision {
			t.Errorf("a page at resourceVersion %s, the first was at %s", page.GetResourceVersion(), revision)
		}
		got = append(got, names...)
		if token = page.GetContinue(); token == "" {
			break
		}
		left := page.GetRemainingItemCount()
		if len(names) != limit || left == nil || *left != int64(len(want)-len(got)) {
			t.Fatalf("a page of %d objects (limit %d), after it %v of %d are left", len(names), limit, left, len(want)-len(got))
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("the pages together: %v, want %v", got, want)
	}
}
