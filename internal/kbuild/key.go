// SPDX-License-Identifier: Apache-2.0

package kbuild

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" //nolint:gosec // RFC 5280, 4.2.1.2: a key identifier, not a signature
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"
)

// CertPath is where the fragment trusted-key says the certificate is, relative
// to make's output.
const CertPath = "certs/kvmrun.pem"

// keyFile is the private key and its certificate in one file, the form of the
// kernel's own certs/signing_key.pem.
const keyFile = "signing_key.pem"

// keyPair makes the tree's throw-away key pair if it has none: the private key
// with its certificate in dir/signing_key.pem (mode 0600), the certificate alone
// in obj/certs/kvmrun.pem.
func keyPair(dir, obj string) error {
	key, cert := filepath.Join(dir, keyFile), filepath.Join(obj, filepath.FromSlash(CertPath))
	if text, err := os.ReadFile(key); err == nil {
		if _, rest := pem.Decode(text); len(rest) > 0 {
			if have, err := os.ReadFile(cert); err == nil && string(have) == string(rest) {
				return nil
			}
			return writeCert(cert, rest)
		}
	}
	// 2048 bits: the kernel takes 4096 as well, but verifies every policy load
	// under TCG.
	priv, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 63))
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	id := sha1.Sum(x509.MarshalPKCS1PublicKey(&priv.PublicKey)) //nolint:gosec // see the import
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "kvmrun throw-away key"},
		// The kernel does not look at the dates of builtin keys; the guest's
		// clock may be anywhere.
		NotBefore:             time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:              time.Date(2099, 12, 31, 0, 0, 0, 0, time.UTC),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		BasicConstraintsValid: true,
		SubjectKeyId:          id[:],
		AuthorityKeyId:        id[:],
		SignatureAlgorithm:    x509.SHA256WithRSA,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &priv.PublicKey, priv)
	if err != nil {
		return fmt.Errorf("make certificate: %w", err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(priv)
	if err != nil {
		return fmt.Errorf("make signing key: %w", err)
	}
	certText := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyText := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
	tmp := key + ".tmp"
	if err := os.WriteFile(tmp, append(keyText, certText...), 0o600); err != nil {
		return fmt.Errorf("write signing key: %w", err)
	}
	if err := os.Rename(tmp, key); err != nil {
		return fmt.Errorf("write signing key: %w", err)
	}
	return writeCert(cert, certText)
}

func writeCert(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return fmt.Errorf("write certificate: %w", err)
	}
	return nil
}
