package tlsconf

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

const (
	// selfSignedCert and selfSignedKey are the files' names, etcd's.
	selfSignedCert = "cert.pem"
	selfSignedKey  = "key.pem"
	// maxYears keeps the validity within a time.Duration.
	maxYears = 290
	year     = 365 * 24 * time.Hour
)

// SelfSigned names the certificate and key in dir, which it creates, mode 0700.
// Unless there is a pair that fits together and has not expired, it makes one,
// for hosts ("host" or "host:port") and the given number of years; made tells so.
// The files have mode 0600 and are complete or absent after a crash. Errors:
// ErrValidity; else of the file system.
//
// A server with such a certificate is safe from those who listen, not from those
// who pretend to be it.
func SelfSigned(dir string, hosts []string, years uint, now time.Time) (certFile, keyFile string, made bool, err error) {
	if years < 1 || years > maxYears {
		return "", "", false, fmt.Errorf("%w, not %d", ErrValidity, years)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", "", false, err
	}
	certFile, keyFile = filepath.Join(dir, selfSignedCert), filepath.Join(dir, selfSignedKey)
	if usable(certFile, keyFile, now) {
		return certFile, keyFile, false, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", "", false, err
	}
	certPEM, keyPEM, err := newPair(hosts, now, time.Duration(years)*year)
	if err != nil {
		return "", "", false, err
	}
	// Of two halves that do not fit neither is used: the next start makes new ones.
	if err := replaceFile(keyFile, keyPEM); err != nil {
		return "", "", false, err
	}
	if err := replaceFile(certFile, certPEM); err != nil {
		return "", "", false, err
	}
	return certFile, keyFile, true, nil
}

// usable tells whether the files are a pair that is valid now.
func usable(certFile, keyFile string, now time.Time) bool {
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	return err == nil && pair.Leaf != nil && now.Before(pair.Leaf.NotAfter)
}

func newPair(hosts []string, now time.Time, validity time.Duration) (certPEM, keyPEM []byte, err error) {
	template := &x509.Certificate{ // its serial number is chosen at random
		Subject:               pkix.Name{Organization: []string{"etcd"}},
		NotBefore:             now,
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	for _, host := range hosts {
		if h, _, err := net.SplitHostPort(host); err == nil {
			host = h
		}
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else if host != "" {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, nil, err
	}
	private, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: private}), nil
}

// replaceFile writes a file beside path and renames it, so that path is whole.
func replaceFile(path string, content []byte) (err error) {
	f, err := os.OpenFile(path+".tmp", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}
