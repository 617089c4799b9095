package etcd

import "testing"

// TestGatewayMembers compares calls that change members, leader and version.
func TestGatewayMembers(t *testing.T) {
	converse(t, newSides(t), []ask{
		post("/v3/maintenance/hash", `{}`).hide("hash"),
		post("/v3/maintenance/transfer-leadership", `{"targetID":"5"}`),
		post("/v3/maintenance/downgrade", `{"action":"VALIDATE","version":"3.6"}`), post("/v3/maintenance/downgrade", `{"version":"x"}`),
		post("/v3/cluster/member/remove", `{"ID":"5"}`), post("/v3/cluster/member/promote", `{"ID":"5"}`), post("/v3/cluster/member/update", `{"ID":"5"}`),
		post("/v3/cluster/member/add", `{}`),
	})
}

// TestGatewayLock compares locks and elections.
func TestGatewayLock(t *testing.T) {
	converse(t, newSides(t), []ask{
		post("/v3/lease/grant", `{"ID":"77","TTL":"600"}`),
		post("/v3/lock/lock", `{"name":`+foo+`,"lease":"77"}`), post("/v3/lock/lock", `{"name":`+foo+`,"lease":"78"}`),
		post("/v3/lock/unlock", `{"key":"Zm9vLzRk"}`), post("/v3/lock/unlock", `{}`),
		post("/v3/election/leader", `{"name":`+bar+`}`),
		post("/v3/election/campaign", `{"name":`+bar+`,"lease":"77","value":`+foo+`}`),
		post("/v3/election/leader", `{"name":`+bar+`}`),
		post("/v3/election/observe", `{"name":`+bar+`}`).take(1),
		post("/v3/election/proclaim", `{}`), post("/v3/election/resign", `{}`),
		post("/v3/election/proclaim", `{"leader":{"name":`+bar+`,"key":"YmFyLzRk","rev":"99","lease":"77"},"value":`+bar+`}`),
		post("/v3/election/resign", `{"leader":{"name":`+bar+`,"key":"YmFyLzRk","rev":"4","lease":"77"}}`),
		post("/v3/election/campaign", `{}`),
	})
}
