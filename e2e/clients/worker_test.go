package clients

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"
)

// The test binary started with these variables is a worker: a process that shares a mutex, or
// stands in an election, with others. It tells what happens in lines on its output, and goes on
// when it reads a line, so that the test decides when.
const (
	roleVariable     = "CLIENTS_ROLE" // mutex or elector
	endpointVariable = "CLIENTS_ENDPOINT"
	nameVariable     = "CLIENTS_NAME"
	fileVariable     = "CLIENTS_FILE"   // that mutex holds while it owns the mutex
	roundsVariable   = "CLIENTS_ROUNDS" // of mutex
	holdVariable     = "CLIENTS_HOLD"   // the round at which mutex keeps what it has
)

// workerTTL is the TTL, in seconds, of a worker's session: how long a killed one is missed. A third
// of it is between two renewals, and a busy machine must not make the rest too short.
const workerTTL = 5

// work is what a worker does; it returns the exit code.
func work(role string) int {
	endpoint, name := os.Getenv(endpointVariable), os.Getenv(nameVariable)
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second, Logger: zap.NewNop()})
	if err == nil {
		var s *concurrency.Session
		if s, err = concurrency.NewSession(c, concurrency.WithTTL(workerTTL)); err == nil {
			switch role {
			case "mutex":
				err = countUnderMutex(c, s)
			case "elector":
				err = lead(s, name)
			default:
				err = fmt.Errorf("no role %q", role)
			}
			err = errors.Join(err, s.Close())
		}
	}
	if err != nil {
		fmt.Println("failed", err)
		return 1
	}
	fmt.Println("done")
	return 0
}

// countUnderMutex counts up a number, by reading it and writing it, while it owns the mutex.
func countUnderMutex(c *clientv3.Client, s *concurrency.Session) error {
	rounds, err := strconv.Atoi(os.Getenv(roundsVariable))
	if err != nil {
		return err
	}
	hold, err := strconv.Atoi(os.Getenv(holdVariable))
	if err != nil {
		return err
	}
	m := concurrency.NewMutex(s, "mutex")
	for round := 1; round <= rounds; round++ {
		if err := m.Lock(c.Ctx()); err != nil {
			return err
		}
		release, err := alone(os.Getenv(fileVariable))
		if err != nil {
			return err
		}
		n, err := count(c.Ctx(), c, m)
		if err != nil {
			return err
		}
		fmt.Println("counted", n)
		if round == hold {
			fmt.Println("holding")
			select {} // until it is killed
		}
		if err := release(); err != nil {
			return err
		}
		if err := m.Unlock(c.Ctx()); err != nil {
			return err
		}
	}
	return nil
}

// alone takes a lock of the machine's, which its kernel releases when the process dies. Another
// that holds it is an owner of the mutex at the same time.
func alone(path string) (release func() error, err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("two own the mutex: %w", err)
	}
	return file.Close, nil
}

func count(ctx context.Context, c *clientv3.Client, m *concurrency.Mutex) (int, error) {
	r, err := c.Get(ctx, "number")
	if err != nil {
		return 0, err
	}
	n := 0
	if len(r.Kvs) > 0 {
		if n, err = strconv.Atoi(string(r.Kvs[0].Value)); err != nil {
			return 0, err
		}
	}
	n++
	t, err := c.Txn(ctx).If(m.IsOwner()).Then(clientv3.OpPut("number", fmt.Sprint(n))).Commit()
	if err == nil && !t.Succeeded {
		err = errors.New("not the owner of a mutex that was locked")
	}
	return n, err
}

// lead stands in the election, and when it leads does what it reads: "proclaim" a value, or
// "resign".
func lead(s *concurrency.Session, name string) error {
	e := concurrency.NewElection(s, "election")
	ctx := s.Client().Ctx()
	if err := e.Campaign(ctx, name); err != nil {
		return err
	}
	fmt.Println("leads", e.Rev())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		word, value, _ := strings.Cut(in.Text(), " ")
		switch word {
		case "proclaim":
			if err := e.Proclaim(ctx, value); err != nil {
				return err
			}
		case "resign":
			return e.Resign(ctx)
		default:
			return fmt.Errorf("what is %q?", in.Text())
		}
		fmt.Println("did", in.Text())
	}
	return errors.New("the input ended")
}
