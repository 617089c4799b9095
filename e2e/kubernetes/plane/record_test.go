package plane

import (
	"context"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

func configMap(name string, revision uint64, sequence int) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, ResourceVersion: strconv.FormatUint(revision, 10), Labels: map[string]string{"writer": "yes"}},
		Data:       map[string]string{sequenceField: strconv.Itoa(sequence)},
	}
}

// TestWriterNoticesLoss ensures that the record of acknowledgements tells every kind of loss from what is allowed.
func TestWriterNoticesLoss(t *testing.T) {
	for _, c := range []struct {
		name   string
		record written
		found  *corev1.ConfigMap // nil: not there
		wrong  bool
	}{
		{name: "as acknowledged", record: written{revision: 10, sequence: 1}, found: configMap("a", 10, 1)},
		{name: "missing", record: written{revision: 10, sequence: 1}, wrong: true},
		{name: "never acknowledged, missing", record: written{tried: []int{1}}},
		{name: "never acknowledged, there", record: written{tried: []int{1}}, found: configMap("a", 10, 1)},
		{name: "older revision", record: written{revision: 10, sequence: 2}, found: configMap("a", 9, 1), wrong: true},
		{name: "other content at the revision", record: written{revision: 10, sequence: 2}, found: configMap("a", 10, 1), wrong: true},
		{name: "later attempt", record: written{revision: 10, sequence: 2, tried: []int{3, 4}}, found: configMap("a", 12, 3)},
		{name: "later revision, old content", record: written{revision: 10, sequence: 2, tried: []int{3}}, found: configMap("a", 12, 1), wrong: true},
		{name: "later revision, nothing tried", record: written{revision: 10, sequence: 2}, found: configMap("a", 12, 2), wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := &Writer{objects: map[string]*written{"a": &c.record}}
			var list []corev1.ConfigMap
			if c.found != nil {
				list = append(list, *c.found)
			}
			if err := w.Check(list); (err != nil) != c.wrong {
				t.Errorf("Check: %v, wrong: %v", err, c.wrong)
			}
		})
	}
	unwritten := &Writer{objects: map[string]*written{}}
	if err := unwritten.Check([]corev1.ConfigMap{*configMap("a", 10, 1)}); err == nil {
		t.Error("an object that nobody wrote is not noticed")
	}
	backwards := &Writer{objects: map[string]*written{}}
	backwards.acknowledged("a", configMap("a", 10, 1), 1)
	backwards.acknowledged("a", configMap("a", 9, 2), 2)
	if err := backwards.Check([]corev1.ConfigMap{*configMap("a", 9, 2)}); err == nil {
		t.Error("an acknowledgement at an earlier revision is not noticed")
	}
}

// TestObserverNoticesLoss ensures that a missed, late, early, repeated or spurious event is noticed, and that a gap excuses what lies in it only.
func TestObserverNoticesLoss(t *testing.T) {
	type event struct {
		kind     watch.EventType
		revision uint64
	}
	acks := []Acknowledgement{{"a", 10}, {"a", 20}, {"a", 30}}
	for _, c := range []struct {
		name   string
		events []event
		gaps   []gap
		wrong  bool
	}{
		{name: "all seen", events: []event{{watch.Added, 10}, {watch.Modified, 20}, {watch.Modified, 30}}},
		{name: "one missed", events: []event{{watch.Added, 10}, {watch.Modified, 30}}, wrong: true},
		{name: "one skipped by a bookmark", events: []event{{watch.Added, 10}, {watch.Bookmark, 25}, {watch.Modified, 30}}, wrong: true},
		{name: "one in a gap", events: []event{{watch.Added, 10}, {watch.Modified, 30}}, gaps: []gap{{10, 20}}},
		{name: "one after a gap", events: []event{{watch.Added, 10}, {watch.Modified, 30}}, gaps: []gap{{10, 19}}, wrong: true},
		{name: "out of order", events: []event{{watch.Added, 10}, {watch.Modified, 30}, {watch.Modified, 20}}, wrong: true},
		{name: "twice", events: []event{{watch.Added, 10}, {watch.Modified, 20}, {watch.Modified, 20}, {watch.Modified, 30}}, wrong: true},
		{name: "deletion", events: []event{{watch.Added, 10}, {watch.Modified, 20}, {watch.Deleted, 25}, {watch.Modified, 30}}, wrong: true},
		{name: "too short", events: []event{{watch.Added, 10}, {watch.Modified, 20}}, wrong: true},
		{name: "bookmark in the past", events: []event{{watch.Added, 10}, {watch.Modified, 20}, {watch.Bookmark, 15}, {watch.Modified, 30}}, wrong: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &Observer{seen: map[Acknowledgement]bool{}, moved: make(chan struct{}), gaps: append([]gap{{0, 5}}, c.gaps...)}
			for _, e := range c.events {
				if err := o.event(e.kind, configMap("a", e.revision, 1)); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
			defer cancel()
			if _, err := o.Check(ctx, acks); (err != nil) != c.wrong {
				t.Errorf("Check: %v, wrong: %v", err, c.wrong)
			}
		})
	}
}
