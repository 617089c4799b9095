package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// fileSections are the keys of a configuration file that hold others, as etcd has
// them (embed/config.go, configYAML and securityConfig), with the flag that each
// inner key stands for.
var fileSections = map[string]map[string]string{
	"client-transport-security": {
		"cert-file": "cert-file", "key-file": "key-file", "client-cert-file": "client-cert-file", "client-key-file": "client-key-file",
		"client-cert-auth": "client-cert-auth", "trusted-ca-file": "trusted-ca-file", "auto-tls": "auto-tls",
		"allowed-cn": fileAllowedCN, "allowed-hostname": "client-cert-allowed-hostname",
		"crl-file": "client-crl-file", // ours: etcd's file cannot name a list
	},
	"peer-transport-security": {
		"cert-file": "peer-cert-file", "key-file": "peer-key-file", "client-cert-file": "peer-client-cert-file", "client-key-file": "peer-client-key-file",
		"client-cert-auth": "peer-client-cert-auth", "trusted-ca-file": "peer-trusted-ca-file", "auto-tls": "peer-auto-tls",
		"allowed-cn": "peer-cert-allowed-cn", "allowed-hostname": "peer-cert-allowed-hostname",
		"skip-client-san-verification": "peer-skip-client-san-verification", "crl-file": "peer-crl-file",
	},
	"socket-options": {"reuse-port": "socket-reuse-port", "reuse-address": "socket-reuse-address"},
	"discovery-config": {
		"endpoints": "discovery-endpoints", "token": "discovery-token",
	},
}

// fileAllowedCN is a setting that only a configuration file has: in etcd, too,
// there is no flag for the common names of clients.
const fileAllowedCN = "client-cert-allowed-cn"

// flagsOnly are flags that etcd's configuration file has no key for: at its top
// level they are ignored, which is told.
var flagsOnly = []string{
	"cert-file", "key-file", "client-cert-auth", "client-cert-file", "client-key-file", "client-crl-file", "client-cert-allowed-hostname",
	"trusted-ca-file", "auto-tls", "peer-cert-file", "peer-key-file", "peer-client-cert-auth", "peer-client-cert-file", "peer-client-key-file",
	"peer-trusted-ca-file", "peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-auto-tls", "peer-crl-file", "peer-skip-client-san-verification",
	"socket-reuse-port", "socket-reuse-address", "raft-read-timeout", "raft-write-timeout", "config-file",
	"discovery", "discovery-proxy", "discovery-fallback", "discovery-token", "discovery-endpoints", "discovery-dial-timeout", "discovery-request-timeout",
	"discovery-keepalive-time", "discovery-keepalive-timeout", "discovery-insecure-transport", "discovery-insecure-skip-tls-verify",
	"discovery-cert", "discovery-key", "discovery-cacert", "discovery-user", "discovery-password",
}

// readFile replaces all settings by the defaults and what the configuration file
// says. Every fault is reported with the file's name. As in etcd, keys are
// compared without case, unknown ones are no error, and an empty text is the
// default of a list of URLs.
func (s *settings) readFile(path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--config-file: %w", err)
	}
	for _, v := range s.values {
		if v.from != byDefault && v.spec.name != "config-file" {
			s.ignored = append(s.ignored, "--"+v.spec.name)
			v.value, v.from = v.spec.value, byDefault
		}
	}
	s.file = path
	top, err := readKeys(content)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	var faults []error
	for _, key := range sortedKeys(top) {
		if err := s.readKey(key, top[key]); err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", path, err))
		}
	}
	return errors.Join(faults...)
}

// readKeys reads a YAML or JSON object into its keys. Numbers stay text.
func readKeys(content []byte) (map[string]any, error) {
	asJSON, err := yaml.YAMLToJSON(content)
	if err != nil {
		return nil, err
	}
	decoder := json.NewDecoder(bytes.NewReader(asJSON))
	decoder.UseNumber()
	var top map[string]any
	if err := decoder.Decode(&top); err != nil {
		if _, wrong := errors.AsType[*json.UnmarshalTypeError](err); wrong {
			return nil, errors.New("a configuration file holds keys and values")
		}
		return nil, err
	}
	return top, nil
}

func (s *settings) readKey(key string, value any) error {
	name := strings.ToLower(key)
	if section, found := fileSections[name]; found {
		return s.readSection(name, section, value)
	}
	v, known := s.byName[name]
	if !known || slices.Contains(flagsOnly, name) || v.spec.effect == dropped {
		s.unknown = append(s.unknown, key)
		return nil
	}
	if err := v.read(value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

func (s *settings) readSection(name string, section map[string]string, value any) error {
	if value == nil {
		return nil
	}
	inner, ok := value.(map[string]any)
	if !ok {
		return fmt.Errorf("invalid %s: it holds keys and values", name)
	}
	var faults []error
	for _, key := range sortedKeys(inner) {
		flag, known := section[strings.ToLower(key)]
		if !known {
			s.unknown = append(s.unknown, name+"."+key)
			continue
		}
		v := s.byName[flag]
		if flag == fileAllowedCN {
			v = &s.allowedCNs
		}
		if err := v.read(inner[key]); err != nil {
			faults = append(faults, fmt.Errorf("%s.%s: %w", name, key, err))
		}
	}
	return errors.Join(faults...)
}

// read takes a value from a configuration file. etcd's file counts durations in
// nanoseconds; "10m" is taken, too. A list may be an array or text with commas,
// and a text may look like a number.
func (v *flagValue) read(value any) error {
	var text string
	switch value := value.(type) {
	case nil:
		return nil
	case string:
		switch v.spec.value.(type) {
		case string, time.Duration:
		default:
			return fmt.Errorf("%q is a text, not a %s", value, typeName(v.spec.value))
		}
		text = value
	case bool:
		switch v.spec.value.(type) {
		case string, bool:
		default:
			return fmt.Errorf("%v is not a %s", value, typeName(v.spec.value))
		}
		text = fmt.Sprint(value)
	case json.Number:
		if _, truth := v.spec.value.(bool); truth {
			return fmt.Errorf("%v is not true or false", value)
		}
		text = value.String()
		if _, duration := v.spec.value.(time.Duration); duration {
			text += "ns"
		}
	case []any:
		var parts []string
		for _, part := range value {
			parts = append(parts, fmt.Sprint(part))
		}
		if _, list := v.spec.value.(string); !list {
			return fmt.Errorf("a list is not a %s", typeName(v.spec.value))
		}
		text = strings.Join(parts, ",")
	default:
		return fmt.Errorf("keys and values are not a %s", typeName(v.spec.value))
	}
	if text == "" && v.spec.name != "name" {
		return nil // the default
	}
	if err := v.set(text, byFile); err != nil {
		return fmt.Errorf("invalid value %q: %w", text, err)
	}
	return nil
}

func typeName(value any) string {
	switch value.(type) {
	case bool:
		return "truth value"
	case string:
		return "text"
	case time.Duration:
		return "duration"
	}
	return "number"
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
