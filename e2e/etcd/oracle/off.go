package oracle

// notServed lists what the oracle can ask and shim does not answer yet, by RPC or by
// whole service, with the reason. Every run prints it, and fails when one of
// them is served by now.
func notServed() map[string]string {
	return map[string]string{
		"Lock":                   "not built yet",
		"Election":               "not built yet",
		"Cluster.MemberAdd":      "one member so far",
		"Cluster.MemberRemove":   "one member so far",
		"Cluster.MemberUpdate":   "one member so far",
		"Cluster.MemberPromote":  "one member so far",
		"Maintenance.Hash":       "not built yet",
		"Maintenance.MoveLeader": "one member so far",
		"Maintenance.Downgrade":  "not built yet",
	}
}

// off tells why an RPC is not asked; empty for one that is.
func off(name string) string {
	if why := notServed()[name]; why != "" {
		return why
	}
	return notServed()[service(name)]
}
