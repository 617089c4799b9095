package replica

import (
	"errors"
	"fmt"
	"slices"

	"github.com/etcdshim/shim/backends/raftbolt/internal/wal"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// LogSummary is what InspectLog read.
type LogSummary struct {
	wal.Summary
	Commands int
}

// InspectLog reads the log of a member that does not run, and changes nothing. durable is what the state machine holds; nil when that
// is not known, and then the two are not compared. command is told of each command in the log, and of the Context of each configuration
// change; its error is damage.
// Errors: those of Open, nil for a log that Open would take. Only ClusterID, MemberID, Founding and Dir in cfg are used.
func InspectLog(cfg Config, durable *Durable, command func([]byte) error) (s LogSummary, err error) {
	var index *uint64
	if durable != nil {
		index = &durable.Index
	}
	termAtDurable := uint64(0)
	s.Summary, err = wal.Inspect(cfg.walOptions(), index, func(e *raftpb.Entry) error {
		if durable != nil && e.GetIndex() == durable.Index {
			termAtDurable = e.GetTerm()
		}
		if e.GetType() != raftpb.EntryNormal {
			if e.GetType() != raftpb.EntryConfChange {
				return fmt.Errorf("unknown type %d", e.GetType())
			}
			conf := &raftpb.ConfChange{}
			if err := proto.Unmarshal(e.GetData(), conf); err != nil {
				return err
			}
			return command(conf.GetContext())
		}
		cs, err := commands(e.GetData())
		if err != nil {
			return err
		}
		for i, c := range cs {
			if err := command(c); err != nil {
				return fmt.Errorf("command %d: %w", i, err)
			}
			s.Commands++
		}
		return nil
	})
	if err != nil || durable == nil {
		return s, err
	}
	if durable.Index+1 == s.First {
		termAtDurable = s.TermBefore
	}
	if termAtDurable != 0 && termAtDurable != durable.Term {
		return s, fmt.Errorf("%w: entry %d has term %d in the log and %d in the store", wal.ErrCorrupt, durable.Index, termAtDurable, durable.Term)
	}
	return s, nil
}

// IsLogDamage tells whether an error of Open or InspectLog says that the log's bytes are not what was written.
func IsLogDamage(err error) bool {
	return isAny(err, wal.ErrCorrupt, wal.ErrBehindStore, wal.ErrAheadOfStore)
}

// IsLogMisplaced tells whether an error of Open or InspectLog says that the log, or a file in its directory, belongs elsewhere, or that
// there is none.
func IsLogMisplaced(err error) bool { return isAny(err, wal.ErrNoLog, wal.ErrForeign, wal.ErrOwner) }

func isAny(err error, targets ...error) bool {
	return slices.ContainsFunc(targets, func(t error) bool { return errors.Is(err, t) })
}
