package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
)

// pin is a prefix as it was at a past revision: its records page by page.
type pin struct {
	revision int64
	pages    []page
}

// page is one page of a prefix: the request for it and what it must return.
type page struct {
	request encoded
	content
	count int64
	more  bool
}

// indexes of a prefix in key order.
func (d *dataset) under(prefix string) []int {
	if prefix == listPrefix {
		return d.listSorted
	}
	return d.pagedSorted
}

// pages are the pages of a prefix at the model's present state, read at a revision
// (0: the present one).
func (t *target) pages(prefix string, revision int64) []page {
	var pages []page
	from, left := []byte(prefix), t.data.under(prefix)
	for len(left) > 0 {
		n := min(t.sizes.limit, len(left))
		pages = append(pages, page{
			request: rangeRequest{key: from, end: prefixEnd(prefix), limit: int64(t.sizes.limit), revision: revision}.encode(),
			content: t.expect(left[:n]), count: int64(len(left)), more: n < len(left),
		})
		from = append(append([]byte{}, t.data.keys[left[n-1]]...), 0)
		left = left[n:]
	}
	return pages
}

// runPages reads the pages in turn, with one client.
func (t *target) runPages(ctx context.Context, d time.Duration, pages []page) (figure, error) {
	run, done, err := closedLoop(t, 1, func(_ int, conn *grpc.ClientConn) func(context.Context) error {
		var answer ranged
		n := 0
		return func(ctx context.Context) error {
			p := &pages[n%len(pages)]
			n++
			if err := call(ctx, conn, methodRange, p.request, &answer); err != nil {
				return err
			}
			return answer.verify(p.content, p.count, p.more)
		}
	})
	if err != nil {
		return figure{}, err
	}
	defer done()
	return measure(ctx, t, d, run)
}

// runFirstPage reads the first page of a prefix at the present revision.
func runFirstPage(prefix string) func(context.Context, *target, time.Duration) (figure, error) {
	return func(ctx context.Context, t *target, d time.Duration) (figure, error) {
		return t.runPages(ctx, d, t.pages(prefix, 0)[:1])
	}
}

// runNextPages reads the second to the last page at a past revision, after writes
// that changed, removed and created keys of the prefix.
func runNextPages(prefix string) func(context.Context, *target, time.Duration) (figure, error) {
	return func(ctx context.Context, t *target, d time.Duration) (figure, error) {
		p := t.pinned[prefix]
		if p == nil {
			var err error
			if p, err = t.pin(ctx, prefix); err != nil {
				return figure{}, err
			}
			t.pinned[prefix] = p
		}
		return t.runPages(ctx, d, p.pages[1:])
	}
}

// pin reads the first page of a prefix, as every paged list begins, remembers the
// pages at that revision, and then updates 2 % of the keys and removes 1 %.
func (t *target) pin(ctx context.Context, prefix string) (*pin, error) {
	first := t.pages(prefix, 0)[0]
	var answer ranged
	if err := call(ctx, t.control, methodRange, first.request, &answer); err != nil {
		return nil, err
	}
	if err := answer.verify(first.content, first.count, first.more); err != nil {
		return nil, err
	}
	p := &pin{revision: answer.revision, pages: t.pages(prefix, answer.revision)}
	builder := &requestBuilder{data: t.data}
	for n, i := range t.data.under(prefix) {
		var answer written
		switch n % 100 {
		case 33, 66:
			if err := call(ctx, t.control, methodPut, builder.put(i, t.version[i]+1), &answer); err != nil {
				return nil, err
			}
			t.put(i, answer.revision)
		case 99:
			if err := call(ctx, t.control, methodDelete, builder.get(i), &answer); err != nil {
				return nil, err
			}
			if answer.second != 1 {
				return nil, fmt.Errorf("delete of %q removed %d keys", t.data.keys[i], answer.second)
			}
			t.remove(i)
		}
	}
	return p, nil
}

// runList reads the listed prefix whole, with one client.
func runList(stream bool) func(context.Context, *target, time.Duration) (figure, error) {
	return func(ctx context.Context, t *target, d time.Duration) (figure, error) {
		want := t.expect(t.data.listSorted)
		request := rangeRequest{key: []byte(listPrefix), end: prefixEnd(listPrefix)}.encode()
		run, done, err := closedLoop(t, 1, func(_ int, conn *grpc.ClientConn) func(context.Context) error {
			answer := ranged{stream: stream}
			return func(ctx context.Context) error {
				read, method := call, methodRange
				if stream {
					read, method = callStream, methodRangeStream
				}
				answer.reset()
				if err := read(ctx, conn, method, request, &answer); err != nil {
					return err
				}
				return answer.verify(want, int64(want.records), false)
			}
		})
		if err != nil {
			return figure{}, err
		}
		defer done()
		return measure(ctx, t, d, run)
	}
}

// callStream is one call that is answered by many messages, all read into one answer.
func callStream(ctx context.Context, conn *grpc.ClientConn, method string, request encoded, into answer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(request); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(into); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// runCount counts the paged prefix, with one client.
func runCount(ctx context.Context, t *target, d time.Duration) (figure, error) {
	request := rangeRequest{key: []byte(pagedPrefix), end: prefixEnd(pagedPrefix), countOnly: true}.encode()
	want := int64(t.expect(t.data.pagedSorted).records)
	run, done, err := closedLoop(t, 1, func(_ int, conn *grpc.ClientConn) func(context.Context) error {
		var answer ranged
		return func(ctx context.Context) error {
			if err := call(ctx, conn, methodRange, request, &answer); err != nil {
				return err
			}
			return answer.verify(content{}, want, false)
		}
	})
	if err != nil {
		return figure{}, err
	}
	defer done()
	return measure(ctx, t, d, run)
}
