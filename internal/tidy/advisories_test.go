package tidy

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// advisories are those that etcd has had up to 3.7.3, under each name that they are known
// by, with what was wrong there. A server that speaks the same API is open to the same mistakes.
func advisories() map[string]string {
	return map[string]string{
		"CVE-2018-1098":                                     "requests forged by a web page",
		"CVE-2018-1099":                                     "DNS rebinding",
		"CVE-2018-16886 GO-2021-0077":                       "the server certificate's name as a user, through the gateway",
		"CVE-2020-15106 CVE-2020-15112 GO-2020-0005":        "a log that is damaged: a slice out of bounds, a huge one",
		"CVE-2020-15113":                                    "an existing data directory that others may read",
		"CVE-2020-15114 CVE-2020-15136 GHSA-j86v-2vjr-fg8f": "a gateway that connects to itself, and does not check certificates",
		"CVE-2020-15115":                                    "no least length of a password",
		"CVE-2021-28235":                                    "a password in memory and log after its use",
		"CVE-2023-32082":                                    "names of a lease's keys without the right to read them",
		"CVE-2026-33343 GHSA-rfx7-8w68-q57q":                "nested transactions without a look at permissions",
		"CVE-2026-33413 GHSA-q8m4-xhhv-38mg":                "members, alarms, leases and compaction without a look at permissions",
		"CVE-2026-44283 GHSA-x35m-3gp4-4fh5":                "previous records, and leases attached, by puts in transactions",
		"CVE-2026-73500 GHSA-6vch-q96h-7gc3":                "no time-out of TLS handshakes",
		"GHSA-3wh4-j44w-pg92":                               "no look at the revocation list on one of two listeners",
		"GHSA-5x4g-q5rc-36jp":                               "insecure ciphers by default",
		"GHSA-xg4h-6gfc-h4m8":                               "a watch from a key on, with the right to read that key alone",
		"GO-2024-2529":                                      "a negative retention stops the server",
		"GO-2024-2530":                                      "misleading log of users who have certificates alone",
		"PR 15619":                                          "a permission on an empty range",
		"PR 15676":                                          "signed tokens without claims stop the server",
		"PR 20941":                                          "tokens in the log",
		"ReadHeaderTimeout":                                 "headers that never end (etcd 3.7.1)",
	}
}

// TestEveryAdvisoryHasATest ensures that each advisory of etcd is named, under each of its names,
// where a test or a case of conformance guards against it.
func TestEveryAdvisoryHasATest(t *testing.T) {
	var guards strings.Builder
	for _, f := range rootFiles(t) {
		if (f.test || f.dir == "conformance") && f.path != filepath.Join("internal", "tidy", "advisories_test.go") {
			guards.WriteString(f.text)
		}
	}
	text := strings.ToLower(guards.String())
	for names, what := range advisories() {
		all := strings.Fields(names)
		if pr, ok := strings.CutPrefix(names, "PR "); ok {
			all = []string{"PR " + pr}
		}
		for _, name := range all {
			if !strings.Contains(text, strings.ToLower(name)) {
				t.Errorf("no test names %s (%s)", name, what)
			}
		}
	}
}

// version is a semantic version without its suffix.
type version [3]int

func parseVersion(t *testing.T, text string) (v version) {
	t.Helper()
	if _, err := fmt.Sscanf(text, "v%d.%d.%d", &v[0], &v[1], &v[2]); err != nil {
		t.Fatalf("version %q: %v", text, err)
	}
	return v
}

// TestSafeDependencies ensures that no dependency is older than the version in which what was wrong
// with it was mended: grpc-go's paths without a slash (CVE-2026-33186, GHSA-hrxh-6v49-42gf) and rapid
// resets (GHSA-m425-mq94-257g), golang-jwt's parser (CVE-2025-30204). That of otelgrpc's
// labels (CVE-2023-47108) is not a dependency at all.
func TestSafeDependencies(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	least := map[string]string{
		"google.golang.org/grpc": "v1.82.1", "github.com/golang-jwt/jwt/v5": "v5.2.2", "go.etcd.io/bbolt": "v1.5.0",
	}
	found := 0
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		if strings.Contains(words[0], "otelgrpc") {
			t.Errorf("%s is a dependency", words[0])
		}
		want, ok := least[words[0]]
		if !ok {
			continue
		}
		found++
		have, wanted := parseVersion(t, words[1]), parseVersion(t, want)
		if slices.Compare(have[:], wanted[:]) < 0 {
			t.Errorf("%s %s, want at least %s", words[0], words[1], want)
		}
	}
	if found != len(least) {
		t.Errorf("go.mod names %d of %d", found, len(least))
	}
}
