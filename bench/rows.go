package main

import (
	"context"
	"regexp"
	"time"
)

// row is one kind of load.
type row struct {
	name string
	// op says what one operation is.
	op string
	// restart tells that the row is the restart, which needs all the data, and whose
	// figures are others than those of the other rows.
	restart bool
	// run measures the row on a target for about d.
	run func(ctx context.Context, t *target, d time.Duration) (figure, error)
}

// allRows are the rows in the order in which they run: those that leave the data as
// it is, then those that write, then those that read at a revision before writes,
// and the restart with the most data.
func allRows() []row {
	return []row{
		{name: "get, 1 client", op: "Range of one key", run: runGet(func(sizes) int { return 1 })},
		{name: "get, 100 clients", op: "Range of one key", run: runGet(func(s sizes) int { return s.some })},
		{name: "list 10,000 x 1 KiB", op: "Range", run: runList(false)},
		{name: "stream 10,000 x 1 KiB", op: "RangeStream", run: runList(true)},
		{name: "limit 500 of 10,000, first page", op: "Range", run: runFirstPage(listPrefix)},
		{name: "limit 500 of 100,000, first page", op: "Range", run: runFirstPage(pagedPrefix)},
		{name: "count 100,000", op: "Range, count only", run: runCount},
		{name: "put 256 B, 1 client", op: "Put", run: runPut(func(sizes) int { return 1 })},
		{name: "put 256 B, 1,000 clients", op: "Put", run: runPut(func(s sizes) int { return s.many })},
		{name: "guarded txn, 1 client", op: "Txn", run: runGuarded(func(sizes) int { return 1 })},
		{name: "guarded txn, 100 clients", op: "Txn", run: runGuarded(func(s sizes) int { return s.some })},
		{name: "limit 500 of 10,000, next pages", op: "Range at a past revision", run: runNextPages(listPrefix)},
		{name: "limit 500 of 100,000, next pages", op: "Range at a past revision", run: runNextPages(pagedPrefix)},
		{name: "watch, 1,000 on 10 streams", op: "event delivered", run: runWatch(func(s sizes) int { return s.watches / 100 })},
		{name: "watch, 1,000 on 1,000 streams", op: "event delivered", run: runWatch(func(s sizes) int { return s.watches })},
		{name: "lease keep-alive, 100 clients", op: "LeaseKeepAlive", run: runKeepAlive},
		{name: "restart at 1,000,000 keys", op: "restart", restart: true, run: runRestart},
	}
}

func selectRows(match *regexp.Regexp) []row {
	var selected []row
	for _, r := range allRows() {
		if match.MatchString(r.name) {
			selected = append(selected, r)
		}
	}
	return selected
}

func rowNames() []string {
	var names []string
	for _, r := range allRows() {
		names = append(names, r.name)
	}
	return names
}
