package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
)

// runRound starts fresh servers, lays the data and runs the rows, each on both
// servers one after the other; which goes first changes from row to row and round to
// round. The figures up to an error are returned with it.
func runRound(ctx context.Context, o options, binaries map[string]string, round int, rows []row) (figures []figure, err error) {
	progressf("round %d of %d: laying data", round, o.rounds)
	data := newDataset(o.sizes, o.seed+uint64(round))
	var targets []*target
	defer func() {
		for _, t := range targets {
			err = errors.Join(err, t.close())
		}
		for _, name := range o.servers {
			if err == nil { // else the directories may tell why
				err = os.RemoveAll(filepath.Join(o.dir, name))
			}
		}
	}()
	for _, name := range o.servers {
		t, err := newTarget(ctx, o, name, binaries[name], data)
		if t != nil {
			targets = append(targets, t)
		}
		if err != nil {
			return nil, err
		}
		if err := t.lay(ctx, round, data.list, data.paged, data.others); err != nil {
			return nil, err
		}
	}
	extended := false
	for n, r := range rows {
		progressf("round %d of %d: %s", round, o.rounds, r.name)
		if r.restart && !extended {
			extended = true
			for _, t := range targets {
				if err := t.lay(ctx, round, data.extension); err != nil {
					return figures, err
				}
			}
		}
		order := slices.Clone(targets)
		if (round+n)%2 == 1 {
			slices.Reverse(order)
		}
		for _, t := range order {
			f, err := profiled(ctx, o, t, r, round)
			if err != nil {
				return figures, fmt.Errorf("%s on %s: %w", r.name, t.name, err)
			}
			f.row, f.round = r.name, round
			progressf("  %s", f)
			figures = append(figures, f)
		}
	}
	return figures, nil
}

// newTarget starts a server on an empty directory.
func newTarget(ctx context.Context, o options, name, binary string, data *dataset) (*target, error) {
	s, err := newServer(name, binary, filepath.Join(o.dir, name), o.profiles != "")
	if err != nil {
		return nil, err
	}
	t := &target{server: s, state: newState(data), sizes: o.sizes, pinned: map[string]*pin{}}
	if err := s.start(); err != nil {
		return nil, err
	}
	if err := s.waitReady(ctx); err != nil {
		return t, err
	}
	return t, t.connect()
}
