package auth

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/etcd/api/v3/authpb"
	"google.golang.org/protobuf/proto"
)

// Bucket names a bucket of etcd's schema (server/storage/schema/bucket.go).
type Bucket string

// The buckets. Settings holds
//
//	authEnabled   1 byte: 1 is on, 0 off; absent before it was on for the first time
//	authRevision  8 bytes, big endian
//
// Users holds an encoded authpb.User under its name, Roles an authpb.Role.
const (
	Settings Bucket = "auth"
	Users    Bucket = "authUsers"
	Roles    Bucket = "authRoles"
)

const (
	keyEnabled  = "authEnabled"
	keyRevision = "authRevision"
)

// firstRevision is the auth revision of a store without any change, as in etcd.
const firstRevision = 1

// Write is one change of a bucket. A nil Value deletes.
type Write struct {
	Bucket Bucket
	Key    []byte
	Value  []byte
}

// Founding is what etcd writes into a new store.
func Founding() Write { return writeRevision(firstRevision) }

func writeRevision(revision uint64) Write {
	return Write{Settings, []byte(keyRevision), binary.BigEndian.AppendUint64(nil, revision)}
}

func writeEnabled(enabled bool) Write {
	value := []byte{0}
	if enabled {
		value[0] = 1
	}
	return Write{Settings, []byte(keyEnabled), value}
}

// Load reads a State. each calls its function for the entries of a bucket, in any
// order. ErrMalformedRecord, or each's error.
func Load(each func(Bucket, func(key, value []byte)) error) (*State, error) {
	l := loader{state: State{revision: firstRevision, users: map[string]*user{}, roles: map[string]*role{}}}
	for _, b := range []Bucket{Settings, Users, Roles} {
		err := each(b, func(key, value []byte) {
			if err := l.entry(b, key, value); l.bad == nil {
				l.bad = err
			}
		})
		if err != nil {
			return nil, err
		}
	}
	if l.bad != nil {
		return nil, l.bad
	}
	return &l.state, nil
}

// CheckEntry judges an entry of a bucket by itself. ErrMalformedRecord.
func CheckEntry(b Bucket, key, value []byte) error {
	l := loader{state: State{users: map[string]*user{}, roles: map[string]*role{}}}
	return l.entry(b, key, value)
}

type loader struct {
	state State
	bad   error
}

func (l *loader) entry(b Bucket, key, value []byte) error {
	switch b {
	case Settings:
		return l.setting(key, value)
	case Users:
		record := new(authpb.User)
		if err := decode(b, key, value, record); err != nil {
			return err
		}
		if string(record.Name) != string(key) {
			return fmt.Errorf("%w: user %q says that it is %q", ErrMalformedRecord, key, record.Name)
		}
		l.state.users[string(key)] = newUser(record)
	case Roles:
		record := new(authpb.Role)
		if err := decode(b, key, value, record); err != nil {
			return err
		}
		if string(record.Name) != string(key) {
			return fmt.Errorf("%w: role %q says that it is %q", ErrMalformedRecord, key, record.Name)
		}
		l.state.roles[string(key)] = &role{record}
	default:
		return fmt.Errorf("%w: bucket %q", ErrMalformedRecord, b)
	}
	return nil
}

func (l *loader) setting(key, value []byte) error {
	switch string(key) {
	case keyEnabled:
		if len(value) != 1 || value[0] > 1 {
			return fmt.Errorf("%w: %s is %x", ErrMalformedRecord, keyEnabled, value)
		}
		l.state.enabled = value[0] == 1
	case keyRevision:
		if len(value) != 8 {
			return fmt.Errorf("%w: %s is %x", ErrMalformedRecord, keyRevision, value)
		}
		l.state.revision = max(binary.BigEndian.Uint64(value), firstRevision)
	default:
		return fmt.Errorf("%w: unknown entry %q in bucket %q", ErrMalformedRecord, key, Settings)
	}
	return nil
}

func decode(b Bucket, key, value []byte, record proto.Message) error {
	if err := proto.Unmarshal(value, record); err != nil {
		return fmt.Errorf("%w: %q in bucket %q: %w", ErrMalformedRecord, key, b, err)
	}
	return nil
}

func encode(record proto.Message) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(record)
}
