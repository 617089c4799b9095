package main

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// gateSpec is one of etcd 3.7's feature gates (server/features).
type gateSpec struct {
	name    string
	stage   string // alpha or beta
	enabled bool   // by default
	// here tells what holds in shim, whatever the gate says.
	here string
}

// Gates that set all others of their stage which are not named themselves.
const (
	allAlpha = "AllAlpha"
	allBeta  = "AllBeta"
	alpha    = "alpha"
	beta     = "beta"
)

// gateSpecs are all gates that etcd knows.
var gateSpecs = []gateSpec{
	{"CompactHashCheck", alpha, false, "members are compared with clusters; this build serves one"},
	{"FastLeaseKeepAlive", beta, true, "a renewal waits for the leader to be confirmed, not for what was applied"},
	{"InitialCorruptCheck", alpha, false, "the data's structure and seal are checked at every start; members are compared with clusters"},
	{"LeaseCheckpoint", alpha, false, "the remaining time of leases is always replicated"},
	{"LeaseCheckpointPersist", alpha, false, "the remaining time of leases is always kept"},
	{"PriorityRequest", alpha, false, "requests are applied in the order of the log"},
	{"SetMemberLocalAddr", alpha, false, whyOneMember},
	{"StopGRPCServiceOnDefrag", alpha, false, "a defragmentation does not stop requests"},
	{"TxnModeWriteWithSharedBuffer", beta, true, "transactions have no such buffer"},
}

// gates maps each gate that was set, by itself or by AllAlpha or AllBeta.
type gates map[string]bool

// parseGates reads Name=true,Name=false as etcd does (pkg/featuregate). A name
// that etcd does not know is an error.
func parseGates(text string) (gates, error) {
	named := map[string]bool{}
	for _, entry := range strings.Split(text, ",") {
		if entry == "" {
			continue
		}
		name, value, found := strings.Cut(entry, "=")
		name = strings.TrimSpace(name)
		if !found {
			return nil, fmt.Errorf("missing bool value for %s", name)
		}
		on, err := strconv.ParseBool(strings.TrimSpace(value))
		if err != nil {
			return nil, fmt.Errorf("invalid value of %s=%s", name, strings.TrimSpace(value))
		}
		if name != allAlpha && name != allBeta && !slices.ContainsFunc(gateSpecs, func(g gateSpec) bool { return g.name == name }) {
			return nil, fmt.Errorf("unrecognized feature gate: %s%s", name, didYouMean(name, gateNames(), ""))
		}
		named[name] = on
	}
	set := gates(maps.Clone(named))
	for stage, all := range map[string]string{alpha: allAlpha, beta: allBeta} {
		on, given := named[all]
		delete(set, all)
		for _, g := range gateSpecs {
			if _, itself := named[g.name]; given && g.stage == stage && !itself {
				set[g.name] = on
			}
		}
	}
	return set, nil
}

// validate holds gates against each other, as etcd does (embed/config.go, Validate).
func (g gates) validate() error {
	if g.enabled("LeaseCheckpointPersist") && !g.enabled("LeaseCheckpoint") {
		return errors.New("LeaseCheckpointPersist requires LeaseCheckpoint")
	}
	return nil
}

// enabled tells how a gate stands.
func (g gates) enabled(name string) bool {
	if on, set := g[name]; set {
		return on
	}
	i := slices.IndexFunc(gateSpecs, func(s gateSpec) bool { return s.name == name })
	return gateSpecs[i].enabled
}

// void are the gates that ask for another behaviour than etcd's default, none of
// which changes anything here.
func (g gates) void() []gateSpec {
	var found []gateSpec
	for _, s := range gateSpecs {
		if on, set := g[s.name]; set && on != s.enabled {
			found = append(found, s)
		}
	}
	return found
}

func gateNames() []string {
	names := []string{allAlpha, allBeta}
	for _, g := range gateSpecs {
		names = append(names, g.name)
	}
	return names
}
