package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"github.com/etcdshim/shim/backends"
)

const saveHelp = `Asks one server, etcd's or shim's, for a snapshot, checks what came against the checksum behind
it, and gives it the name of the file only once it is whole and synced.`

// partSuffix is behind the name of a file until it is whole, as etcdctl has it.
const partSuffix = ".part"

func saveCommand() *cli.Command {
	return &cli.Command{
		Name: "save", Usage: "save a snapshot of a running server",
		UsageText: "shim snapshot save FILE [--endpoints HOST:PORT]", Description: saveHelp, HideHelpCommand: true, OnUsageError: wrongUsage,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "endpoints", Value: "127.0.0.1:2379", EnvVars: []string{"ETCDCTL_ENDPOINTS"}, Usage: "The server to ask; one."},
			&cli.StringFlag{Name: "cacert", EnvVars: []string{"ETCDCTL_CACERT"}, Usage: "File of the certificates that may sign the server's."},
			&cli.StringFlag{Name: "cert", EnvVars: []string{"ETCDCTL_CERT"}, Usage: "File of the client's certificate."},
			&cli.StringFlag{Name: "key", EnvVars: []string{"ETCDCTL_KEY"}, Usage: "File of its key."},
			&cli.BoolFlag{Name: "insecure-skip-tls-verify", EnvVars: []string{"ETCDCTL_INSECURE_SKIP_TLS_VERIFY"}, Usage: "Take any certificate of the server."},
			&cli.StringFlag{Name: "user", EnvVars: []string{"ETCDCTL_USER"}, Usage: "User name, or name:password."},
			&cli.StringFlag{Name: "password", EnvVars: []string{"ETCDCTL_PASSWORD"}, Usage: "The user's password."},
			&cli.DurationFlag{Name: "command-timeout", EnvVars: []string{"ETCDCTL_COMMAND_TIMEOUT"}, Usage: "How long it may take. (default: no bound)"},
		},
		Action: func(c *cli.Context) error {
			path, err := oneFile(c)
			if err != nil {
				return err
			}
			ctx := c.Context
			if d := c.Duration("command-timeout"); d > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, d)
				defer cancel()
			}
			backend, err := upstreamURL(c)
			if err != nil {
				return usageError{err}
			}
			name, password, ok := strings.Cut(c.String("user"), ":")
			if !ok {
				password = c.String("password")
			}
			return save(ctx, backend, name, password, path, c.App.Writer, newProgress(c.App.ErrWriter, "saving"))
		},
	}
}

// upstreamURL is the backend that passes on to the endpoint.
func upstreamURL(c *cli.Context) (string, error) {
	host, tls := c.String("endpoints"), url.Values{}
	if strings.Contains(host, ",") {
		return "", fmt.Errorf("snapshot must be requested to one selected node, not multiple %s", host)
	}
	if rest, ok := strings.CutPrefix(host, "https://"); ok {
		host = rest
		tls.Set("tls", "true")
	}
	host = strings.TrimPrefix(host, "http://")
	for _, flag := range []string{"cacert", "cert", "key"} {
		if v := c.String(flag); v != "" {
			tls.Set(flag, v)
		}
	}
	if c.String("cert") != "" {
		tls.Set("cert-names-user", "true") // whoever runs the command has it
	}
	if c.Bool("insecure-skip-tls-verify") {
		tls.Set("insecure-skip-tls-verify", "true")
	}
	return (&url.URL{Scheme: "etcd", Host: host, RawQuery: tls.Encode()}).String(), nil
}

// save saves a snapshot of what backendURL names to path.
func save(ctx context.Context, backendURL, user, password, path string, out io.Writer, p *progress) (err error) {
	env, done, err := commandEnv()
	if err != nil {
		return err
	}
	defer done()
	// The file first: who may not write it need not ask.
	f, err := os.OpenFile(path+partSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("could not open %s: %w", path+partSuffix, err)
	}
	defer func() {
		if err != nil {
			_ = f.Close() // it may be closed already
			err = errors.Join(err, os.Remove(path+partSuffix))
		}
	}()
	backend, err := backends.Open(ctx, backendURL, env)
	if err != nil {
		return err
	}
	defer func() { _ = backend.Close(ctx) }()
	caller, err := authenticate(ctx, backend, user, password)
	if err != nil {
		return err
	}
	version, err := receive(ctx, backend, caller, f, p)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(path+partSuffix, path); err != nil {
		return err
	}
	if err := syncDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	text := fmt.Sprintf("Snapshot saved at %s\n", path)
	if version != "" {
		text += fmt.Sprintf("Server version %s\n", version)
	}
	_, err = io.WriteString(out, text)
	return err
}

// authenticate exchanges name and password for a token.
func authenticate(ctx context.Context, b backends.Backend, user, password string) (backends.Caller, error) {
	if user == "" {
		return backends.Caller{}, nil
	}
	auth, ok := b.(backends.Auth)
	if !ok {
		return backends.Caller{}, fmt.Errorf("--user: the %s backend does not authenticate", b.Info().Name)
	}
	r, err := auth.Authenticate(ctx, backends.Caller{}, user, password)
	return backends.Caller{Token: r.Token}, err
}

// receive writes a snapshot and its checksum. The backend compared the checksum
// that came with it.
func receive(ctx context.Context, b backends.Backend, caller backends.Caller, f io.Writer, p *progress) (version string, err error) {
	source, ok := b.(backends.Snapshotter)
	if !ok {
		return "", fmt.Errorf("the %s backend makes no snapshots", b.Info().Name)
	}
	snap, err := source.Snapshot(ctx, caller)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, snap.Close()) }()
	defer p.end()
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, sum, &counter{at: p.at, all: snap.SizeBytes}), snap)
	if err != nil {
		return "", fmt.Errorf("could not write snapshot: %w", err)
	}
	if n != snap.SizeBytes || n%512 != 0 {
		return "", fmt.Errorf("the server sent %d bytes and announced %d: that is no snapshot", n, snap.SizeBytes)
	}
	_, err = f.Write(sum.Sum(nil))
	return snap.StorageVersion, err
}

// counter tells how much went through it.
type counter struct {
	at        func(done, all int64)
	done, all int64
}

func (c *counter) Write(b []byte) (int, error) {
	c.done += int64(len(b))
	c.at(c.done, c.all)
	return len(b), nil
}

// syncDirectory makes the names in a directory durable.
func syncDirectory(dir string) (err error) {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return d.Sync()
}
