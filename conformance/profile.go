package conformance

import (
	"fmt"
	"strings"
)

// Profile is a named list of cases.
type Profile struct {
	Name  string
	Cases []Case
}

// ProfileNamed returns the profile "etcd" (every case) or "kubernetes" (what a
// kube-apiserver sends and relies on).
func ProfileNamed(name string) (Profile, error) {
	switch name {
	case "etcd":
		return Etcd(), nil
	case "kubernetes":
		return Kubernetes(), nil
	}
	return Profile{}, fmt.Errorf("conformance: no profile %q, there are: etcd kubernetes", name)
}

// Etcd is every case.
func Etcd() Profile {
	var cases []Case
	for _, area := range [][]Case{
		kvCases(), rangeCases(), rangeStreamCases(), txnCases(), compactCases(), watchCases(),
		leaseCases(), maintenanceCases(), alarmCases(), downgradeCases(), clusterCases(), httpCases(), badInputCases(), wireCases(), kubeCases(), concurrencyCases(), modelCases(), authCases(), lockCases(), electionCases(),
	} {
		cases = append(cases, area...)
	}
	return Profile{Name: "etcd", Cases: cases}
}

// Kubernetes is what a kube-apiserver sends, and what it relies on in the
// answers: the requests of area kube, and the cases listed here of other areas.
func Kubernetes() Profile {
	listed := map[string]bool{}
	for _, name := range kubernetesRelies() {
		listed[name] = true
	}
	p := Profile{Name: "kubernetes"}
	for _, k := range Etcd().Cases {
		if strings.HasPrefix(k.Name, "kube/") || listed[k.Name] {
			p.Cases = append(p.Cases, k)
		}
	}
	return p
}
