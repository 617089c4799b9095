package conformance

import (
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// downgradeCases are the cases of Downgrade.
func downgradeCases() []Case {
	return []Case{
		{Name: "maintenance/downgrade-validate", RPC: "Maintenance.Downgrade", Needs: Downgrader,
			Covers: []string{"DowngradeRequest.version"}, Run: downgradeValidate},
		// The leader looks each 4 s whether the cluster should speak another version.
		{Name: "maintenance/downgrade", RPC: "Maintenance.Downgrade", Needs: Downgrader, Slow: true,
			Covers: []string{"DowngradeRequest.action"}, Run: downgradeAndBack},
		{Name: "badinput/row-35-downgrade", RPC: "Maintenance.Downgrade", Needs: Downgrader, Run: downgradeBad},
	}
}

// downgrade sends a request that must succeed and returns the version in the answer.
func (c *C) downgrade(action pb.DowngradeRequest_DowngradeAction, version string) string {
	c.Helper()
	r, err := c.Maintenance.Downgrade(c.Ctx, &pb.DowngradeRequest{Action: action, Version: version})
	c.must(err, "downgrade %s %q", action, version)
	c.header("downgrade", r.Header)
	return r.Version
}

func downgradeValidate(c *C) {
	for _, version := range []string{"3.6", "3.6.0", "3.6.99", "3.6.1-rc.1+x.y", "03.06", "3.6.0-0"} {
		equal(c, "version", c.downgrade(pb.DowngradeRequest_VALIDATE, version), "3.7")
	}
	equal(c, "downgrade enabled", c.status().DowngradeInfo.GetEnabled(), false)
}

func downgradeBad(c *C) {
	for _, action := range []pb.DowngradeRequest_DowngradeAction{pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE} {
		for _, version := range []string{"", "x.y", "3", "3.x", "3.6.x", "3.6.0.0", "3.6-rc", "3.6.0-a..b", "3.6.0-\u00e4", "v3.6.0",
			"-3.6.0", " 3.6.0", "3.99999999999999999999"} {
			_, err := c.Maintenance.Downgrade(c.Ctx, &pb.DowngradeRequest{Action: action, Version: version})
			c.wantError(err, codes.InvalidArgument, msgVersionFormat)
		}
		for _, version := range []string{"3.1", "3.7", "3.7.0", "3.8", "3.5", "2.6", "4.6", "0.0"} {
			_, err := c.Maintenance.Downgrade(c.Ctx, &pb.DowngradeRequest{Action: action, Version: version})
			c.wantError(err, codes.InvalidArgument, msgVersionTarget)
		}
	}
	for _, action := range []pb.DowngradeRequest_DowngradeAction{9, -1} {
		_, err := c.Maintenance.Downgrade(c.Ctx, &pb.DowngradeRequest{Action: action, Version: "3.6"})
		c.wantError(err, codes.Unknown, msgUnknownMethod)
	}
	for _, version := range []string{"", "x.y", "3.6"} {
		equal(c, "version", c.downgrade(pb.DowngradeRequest_CANCEL, version), "3.7")
	}
}

// awaitStorageVersion waits until the store is written for a version: nothing tells of it.
func (c *C) awaitStorageVersion(version string) {
	c.Helper()
	for c.status().StorageVersion != version {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-c.Ctx.Done():
			c.Fatalf("the storage version does not become %s", version)
		}
	}
}

func downgradeAndBack(c *C) {
	// The cluster's version may change at any moment after it was enabled.
	speaks := func(version string) {
		c.Helper()
		if version != "3.7" && version != "3.6" {
			c.Errorf("version %q", version)
		}
	}
	speaks(c.downgrade(pb.DowngradeRequest_ENABLE, "3.6"))
	info := c.status().DowngradeInfo
	equal(c, "enabled", info.GetEnabled(), true)
	equal(c, "target", info.GetTargetVersion(), "3.6.0")
	c.awaitStorageVersion("3.6.0")
	for _, action := range []pb.DowngradeRequest_DowngradeAction{pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE} {
		_, err := c.Maintenance.Downgrade(c.Ctx, &pb.DowngradeRequest{Action: action, Version: "3.5"})
		c.wantError(err, codes.FailedPrecondition, msgDowngrading)
		_, err = c.Maintenance.Downgrade(c.Ctx, &pb.DowngradeRequest{Action: action, Version: "3.6"})
		c.wantError(err, codes.InvalidArgument, msgVersionTarget)
	}
	c.put("a", "1")
	equal(c, "version", c.downgrade(pb.DowngradeRequest_CANCEL, ""), "3.6")
	info = c.status().DowngradeInfo
	equal(c, "enabled", info.GetEnabled(), false)
	equal(c, "target", info.GetTargetVersion(), "")
	c.awaitStorageVersion("3.7.0")
	equal(c, "version", c.downgrade(pb.DowngradeRequest_VALIDATE, "3.6"), "3.7")
	equal(c, "count", c.get("a").Count, 1)
}
