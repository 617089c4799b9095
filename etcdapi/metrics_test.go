package etcdapi

import (
	"fmt"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// Versions that clients tell are told apart up to a bound, and the rest is "other". First requests
// at the same time that tell one version take one place and not, as they did, one each.
func TestClientVersionsAreBounded(t *testing.T) {
	registry := prometheus.NewRegistry()
	m, err := newMetrics(registry, false)
	if err != nil {
		t.Fatal(err)
	}
	const burst = 8 * maxClientVersions
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for range burst {
		wg.Go(func() {
			<-begin
			m.client("unary", "3.7")
		})
	}
	close(begin)
	wg.Wait()
	const more = 10
	for i := range maxClientVersions - 1 + more {
		m.client("unary", fmt.Sprint(i))
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "etcd_server_client_requests_total" {
			continue
		}
		for _, metric := range f.GetMetric() {
			for _, label := range metric.GetLabel() {
				if label.GetName() == "client_api_version" {
					got[label.GetValue()] = metric.GetCounter().GetValue()
				}
			}
		}
	}
	if got["3.7"] != burst || got["other"] != more || len(got) != maxClientVersions+1 {
		t.Errorf("%v of one version, %v of others, %d values, want %d, %d and %d", got["3.7"], got["other"], len(got), burst, more, maxClientVersions+1)
	}
}
