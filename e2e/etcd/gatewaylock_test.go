package etcd

import "testing"

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
		post("/v3/election/campaign", `{}`).hide("key", "lease"), // a lease of its own
	})
}
