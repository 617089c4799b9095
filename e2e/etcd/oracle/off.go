package oracle

// notServed lists what the oracle can ask and shim does not answer yet, by RPC or by
// whole service, with the reason. Every run prints it, and fails when one of
// them is served by now.
func notServed() map[string]string {
	return map[string]string{}
}

// off tells why an RPC is not asked; empty for one that is.
func off(name string) string {
	if why := notServed()[name]; why != "" {
		return why
	}
	return notServed()[service(name)]
}
