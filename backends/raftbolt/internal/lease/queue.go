package lease

import (
	"container/heap"
	"time"
)

// absent is the place of a timer that is in no queue.
const absent = -1

// timer is one lease's entry in a queue.
type timer struct {
	at    time.Time
	lease *lease
	// place is the timer's index in its queue, or absent.
	place int
}

// queue is a binary heap of timers, the earliest first; of equal ones the
// smaller lease id. The zero queue is empty.
type queue struct{ timers []*timer }

// due tells whether the first timer's time has come.
func (q *queue) due(now time.Time) bool {
	return q.Len() > 0 && !now.Before(q.first().at)
}

func (q *queue) first() *timer { return q.timers[0] }

// add puts a timer at the end; init must follow before any other use.
func (q *queue) add(t *timer, l *lease, at time.Time) {
	*t = timer{at: at, lease: l, place: len(q.timers)}
	q.timers = append(q.timers, t)
}

func (q *queue) init() { heap.Init(q) }

// set gives a timer its time, and a place if it has none.
func (q *queue) set(t *timer, l *lease, at time.Time) {
	t.at, t.lease = at, l
	if t.place == absent {
		heap.Push(q, t)
		return
	}
	heap.Fix(q, t.place)
}

func (q *queue) remove(t *timer) { heap.Remove(q, t.place) }

// Len, Less, Swap, Push and Pop are heap.Interface.

// Len is the number of timers.
func (q *queue) Len() int { return len(q.timers) }

// Less orders timers by time, then lease id.
func (q *queue) Less(i, j int) bool {
	a, b := q.timers[i], q.timers[j]
	if c := a.at.Compare(b.at); c != 0 {
		return c < 0
	}
	return a.lease.ID < b.lease.ID
}

// Swap exchanges two timers.
func (q *queue) Swap(i, j int) {
	q.timers[i], q.timers[j] = q.timers[j], q.timers[i]
	q.timers[i].place, q.timers[j].place = i, j
}

// Push appends a *timer.
func (q *queue) Push(x any) {
	t := x.(*timer)
	t.place = len(q.timers)
	q.timers = append(q.timers, t)
}

// Pop removes the last timer.
func (q *queue) Pop() any {
	last := len(q.timers) - 1
	t := q.timers[last]
	q.timers[last] = nil
	q.timers = q.timers[:last]
	t.place = absent
	return t
}
