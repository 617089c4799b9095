package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"
)

// parseURLs reads a list of URLs as etcd does (client/pkg/types, NewURLs): each
// once, in order.
func parseURLs(list string) ([]*url.URL, error) {
	var urls []*url.URL
	for _, raw := range strings.Split(list, ",") {
		raw = strings.TrimSpace(raw)
		u, err := url.Parse(raw)
		if err != nil {
			return nil, err
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
				return nil, fmt.Errorf("%q must be of the form %s://host:port", raw, u.Scheme)
			}
			if u.Path != "" {
				return nil, fmt.Errorf("%q must not contain a path", raw)
			}
		case "unix", "unixs":
			if u.Host+u.Path == "" {
				return nil, fmt.Errorf("%q must be of the form %s://path", raw, u.Scheme)
			}
		default:
			return nil, fmt.Errorf("%q must begin with http://, https://, unix:// or unixs://", raw)
		}
		urls = append(urls, u)
	}
	slices.SortFunc(urls, func(a, b *url.URL) int { return strings.Compare(a.String(), b.String()) })
	return slices.CompactFunc(urls, func(a, b *url.URL) bool { return a.String() == b.String() }), nil
}

// urls are the URLs of a flag, whose syntax was checked when it was set.
func (s *settings) urls(name string) ([]*url.URL, error) {
	text := s.text(name)
	if text == "" {
		return nil, nil
	}
	urls, err := parseURLs(text)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", name, err)
	}
	return urls, nil
}

func urlTexts(urls []*url.URL) []string {
	var texts []string
	for _, u := range urls {
		texts = append(texts, u.String())
	}
	return texts
}

// origins are the URLs of --cors, as browsers send them; "*" is any.
func (s *settings) origins() []string {
	if text := s.text("cors"); text == "" || text == "*" {
		return s.list("cors")
	}
	urls, _ := s.urls("cors") // its syntax was checked when it was set
	return urlTexts(urls)
}

// redacted is a URL that may be shown: without its password, and nothing when it
// cannot be read, since then nobody knows where the password is.
func redacted(text string) string {
	switch u, err := url.Parse(text); {
	case !strings.Contains(text, "@"):
		return text
	case err != nil || u.User == nil:
		return ""
	default:
		return u.Redacted()
	}
}

// checkHosts makes sure that URLs that are told to others name a host.
func checkHosts(flag string, urls []*url.URL) error {
	for _, u := range urls {
		if strings.HasPrefix(u.Scheme, "http") && u.Hostname() == "" {
			return fmt.Errorf("--%s: %q names no host", flag, u)
		}
	}
	return nil
}

// traffic is what a port serves.
type traffic string

const (
	trafficBoth    traffic = "grpc+http"
	trafficGRPC    traffic = "grpc"
	trafficHTTP    traffic = "http"
	trafficMetrics traffic = "metrics"
)

// endpoint is a place to listen at. As in etcd (embed/etcd.go,
// configureClientListeners), URLs that differ in their scheme alone are one: it
// then takes TLS and plaintext.
type endpoint struct {
	// urls are those it stands for, for the log.
	urls []string
	// network is tcp or unix; address host:port or a path.
	network, address string
	secure, insecure bool
	traffic          traffic
}

// resolve turns a URL to listen on into an endpoint.
func resolve(u *url.URL, t traffic) (endpoint, error) {
	e := endpoint{urls: []string{u.String()}, network: "tcp", address: u.Host, traffic: t}
	switch u.Scheme {
	case "unix", "unixs":
		e.network, e.address = "unix", u.Host+u.Path
	default:
		if host := u.Hostname(); host != "localhost" && net.ParseIP(host) == nil {
			return e, fmt.Errorf("%q: listen on an IP address or localhost, not on a domain name", u)
		}
	}
	e.secure = u.Scheme == "https" || u.Scheme == "unixs"
	e.insecure = !e.secure
	return e, nil
}

// endpoints merges the URLs of clients, of clients' HTTP, and of metrics. Every
// fault is reported.
func endpoints(clients, clientHTTP, metrics []*url.URL) ([]endpoint, error) {
	var (
		all    []endpoint
		faults []error
	)
	add := func(flag string, urls []*url.URL, t traffic) {
		for _, u := range urls {
			e, err := resolve(u, t)
			if err != nil {
				faults = append(faults, fmt.Errorf("--%s: %w", flag, err))
				continue
			}
			i := slices.IndexFunc(all, func(o endpoint) bool { return o.address == e.address && o.network == e.network })
			switch {
			case i < 0:
				all = append(all, e)
			case all[i].traffic != t || t == trafficMetrics:
				faults = append(faults, fmt.Errorf("--%s: %q is listened on for another flag, too (%s)", flag, u, all[i].urls[0]))
			default:
				all[i].urls = append(all[i].urls, e.urls...)
				all[i].secure, all[i].insecure = all[i].secure || e.secure, all[i].insecure || e.insecure
			}
		}
	}
	t := trafficBoth
	if len(clientHTTP) > 0 {
		t = trafficGRPC
	}
	add("listen-client-urls", clients, t)
	add("listen-client-http-urls", clientHTTP, trafficHTTP)
	add("listen-metrics-urls", metrics, trafficMetrics)
	return all, errors.Join(faults...)
}
