package etcd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strconv"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// The parameters of a backend URL; each but the last turns TLS on, with the system's
// certificates unless there is a cacert.
const (
	paramTLS        = "tls"                      // true: TLS without any of the others
	paramCACert     = "cacert"                   // file of the certificates that may sign the upstream's
	paramCert       = "cert"                     // file of the client's certificate, with its
	paramKey        = "key"                      // file of its key
	paramSkipVerify = "insecure-skip-tls-verify" // true: any certificate of the upstream
	// true: the certificate is the callers' own, as in a command that its owner runs. Who has no
	// token is whom it names.
	paramCertUser = "cert-names-user"
)

func parameters() []string {
	return []string{paramTLS, paramCACert, paramCert, paramKey, paramSkipVerify, paramCertUser}
}

// transport reads the parameters of a backend URL.
func transport(q url.Values) (credentials.TransportCredentials, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	on, named := false, false
	for _, name := range parameters() {
		if len(q[name]) > 1 {
			return nil, fmt.Errorf("parameter %q is given %d times", name, len(q[name]))
		}
	}
	for name, to := range map[string]*bool{paramTLS: &on, paramSkipVerify: &c.InsecureSkipVerify, paramCertUser: &named} {
		if v := q.Get(name); v != "" {
			var err error
			if *to, err = strconv.ParseBool(v); err != nil {
				return nil, fmt.Errorf("parameter %s=%s: neither true nor false", name, v)
			}
		}
	}
	if file := q.Get(paramCACert); file != "" {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("parameter %s: %w", paramCACert, err)
		}
		if c.RootCAs = x509.NewCertPool(); !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("parameter %s: %s holds no certificate", paramCACert, file)
		}
	}
	cert, key := q.Get(paramCert), q.Get(paramKey)
	if (cert == "") != (key == "") {
		return nil, errors.New("parameters cert and key go together")
	}
	if named && cert == "" {
		return nil, errors.New("parameter cert-names-user goes with cert and key")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("parameters %s and %s: %w", paramCert, paramKey, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	if !on && !c.InsecureSkipVerify && c.RootCAs == nil && c.Certificates == nil {
		return insecure.NewCredentials(), nil
	}
	return credentials.NewTLS(c), nil
}
