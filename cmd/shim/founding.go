package main

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// lookupTimeout bounds the look-up of the names in a list of URLs.
const lookupTimeout = 5 * time.Second

// hasMember tells whether the data directory holds a member. Of one that exists,
// what the flags say of its founding is void, in etcd, too.
func (o *options) hasMember() bool {
	_, err := os.Stat(filepath.Join(o.dataDir, "member"))
	return err == nil
}

// checkFounding refuses to found a cluster of its own where one was to be joined, and
// holds --initial-cluster against this one member, which it must name with the peer
// URLs that the member advertises, up to names of hosts (server/config, VerifyBootstrap).
// Its URLs, which the ids follow from, then become the member's.
func (o *options) checkFounding(ctx context.Context) error {
	switch {
	case o.backend != defaultBackend || o.hasMember():
		return nil
	case o.joins:
		return fmt.Errorf("--initial-cluster-state=existing: %s holds no member, and joining a cluster comes with clusters", o.dataDir)
	case o.initialCluster == "":
		return nil
	}
	members := map[string][]string{}
	for _, entry := range strings.Split(o.initialCluster, ",") {
		name, text, ok := strings.Cut(strings.TrimSpace(entry), "=")
		if !ok {
			return fmt.Errorf("--initial-cluster: %q must be of the form name=http://host:port", entry)
		}
		urls, err := parseURLs(text)
		if err != nil {
			return fmt.Errorf("--initial-cluster: %w", err)
		}
		members[name] = append(members[name], urlTexts(urls)...)
	}
	if len(members) > 1 {
		return fmt.Errorf("--initial-cluster: it names %d members, and this build serves one", len(members))
	}
	urls, found := members[o.name]
	if !found {
		return fmt.Errorf("--initial-cluster: %q does not name this member, %s (--name)", o.initialCluster, o.name)
	}
	slices.Sort(urls)
	lookup := net.DefaultResolver.LookupIP
	if urls = slices.Compact(urls); !slices.Equal(urls, o.peerURLs) && !slices.Equal(resolved(ctx, lookup, urls), resolved(ctx, lookup, o.peerURLs)) {
		return fmt.Errorf("--initial-cluster: it has %s of this member, and --initial-advertise-peer-urls %s", strings.Join(urls, ","), strings.Join(o.peerURLs, ","))
	}
	o.peerURLs = urls
	return nil
}

// resolved are URLs with addresses in place of the names that can be looked up, in
// order. As in etcd, localhost is not looked up.
func resolved(ctx context.Context, lookup func(ctx context.Context, network, host string) ([]net.IP, error), urls []string) []string {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	var out []string
	for _, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			continue // it was parsed before
		}
		if u.Hostname() == "localhost" {
			out = append(out, text)
			continue
		}
		if ips, err := lookup(ctx, "ip4", u.Hostname()); err == nil && len(ips) > 0 {
			u.Host = net.JoinHostPort(ips[0].String(), u.Port())
		}
		out = append(out, u.String())
	}
	slices.Sort(out)
	return out
}
