// SPDX-License-Identifier: Apache-2.0

package ipe

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	"golang.org/x/sys/unix"
	"gotest.tools/v3/assert"

	"github.com/kvmrun/kvmrun/suites/kit"
)

// signer signs policies as PKCS#7 messages (Documentation/admin-guide/LSM/ipe.rst).
type signer struct {
	key  crypto.Signer
	cert *x509.Certificate
}

// How a message is made.
const (
	signAttached  = iota
	signDetached  // without the content
	signOtherType // with a content that says to be something else than data
)

// sign makes the message: SHA-256, no attributes, the content inside.
func (s signer) sign(t testing.TB, text []byte, how int) []byte {
	t.Helper()
	sd, err := pkcs7.NewSignedData(text)
	assert.NilError(t, err)
	sd.SetDigestAlgorithm(pkcs7.OIDDigestAlgorithmSHA256)
	if _, ok := s.key.Public().(*rsa.PublicKey); ok {
		// The package would say sha256WithRSAEncryption, which the kernel's
		// parser does not know (crypto/asymmetric_keys/pkcs7_parser.c).
		sd.SetEncryptionAlgorithm(pkcs7.OIDEncryptionAlgorithmRSA)
	}
	assert.NilError(t, sd.SignWithoutAttr(s.cert, s.key, pkcs7.SignerInfoConfig{}))
	switch how {
	case signDetached:
		sd.Detach()
	case signOtherType:
		// 1.3.6.1.4.1.311.2.1.4, Authenticode's, which the kernel knows.
		sd.GetSignedData().ContentInfo.ContentType = []int{1, 3, 6, 1, 4, 1, 311, 2, 1, 4}
	}
	b, err := sd.Finish()
	assert.NilError(t, err)
	return b
}

var unknown struct {
	once   sync.Once
	signer signer
	err    error
}

// unknownSigner has a fresh key that no kernel trusts.
func unknownSigner(t testing.TB) signer {
	t.Helper()
	unknown.once.Do(func() {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			unknown.err = err
			return
		}
		c := &x509.Certificate{
			SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "kvmrun test of an unknown key"},
			NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<32, 0), KeyUsage: x509.KeyUsageDigitalSignature,
			BasicConstraintsValid: true,
		}
		der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
		if err != nil {
			unknown.err = err
			return
		}
		unknown.signer.key = key
		unknown.signer.cert, unknown.err = x509.ParseCertificate(der)
	})
	assert.NilError(t, unknown.err, "make a key")
	return unknown.signer
}

// loadSigner reads a key and its certificate from a PEM file.
func loadSigner(path string) (signer, error) {
	var s signer
	b, err := os.ReadFile(path)
	if err != nil {
		return s, err
	}
	for {
		var p *pem.Block
		if p, b = pem.Decode(b); p == nil {
			break
		}
		switch p.Type {
		case "PRIVATE KEY":
			k, err := x509.ParsePKCS8PrivateKey(p.Bytes)
			if err != nil {
				return s, fmt.Errorf("key in %s: %w", path, err)
			}
			s.key, _ = k.(crypto.Signer)
		case "CERTIFICATE":
			if s.cert, err = x509.ParseCertificate(p.Bytes); err != nil {
				return s, fmt.Errorf("certificate in %s: %w", path, err)
			}
		}
	}
	if s.key == nil || s.cert == nil {
		return s, fmt.Errorf("%s has not both a PRIVATE KEY and a CERTIFICATE", path)
	}
	return s, nil
}

var trusted struct {
	once   sync.Once
	signer signer
	err    error
}

// trustedSigner skips the test unless there is a key that the kernel trusts.
func trustedSigner(t testing.TB) signer {
	t.Helper()
	trusted.once.Do(func() {
		if trusted.signer, trusted.err = loadSigner(KeyFile); trusted.err != nil {
			return
		}
		// A policy without a default is refused, but only after its signature
		// has been accepted.
		err := write(node("new_policy"), trusted.signer.sign(t, []byte("policy_name=probe policy_version=0.0.0\n"), signAttached))
		switch {
		case errors.Is(err, unix.ENOKEY):
			trusted.err = fmt.Errorf("the kernel does not trust the key in %s", KeyFile)
		case !errors.Is(err, unix.EBADMSG):
			t.Errorf("probe of the key: got %s, want EBADMSG", kit.ErrnoName(err))
		}
	})
	kit.NeedFeature(t, FeatureTrustedKey, trusted.err)
	return trusted.signer
}

// TestSignerSelfCheck: the messages are what they are meant to be, whatever the
// kernel makes of them.
func TestSignerSelfCheck(t *testing.T) {
	s := unknownSigner(t)
	text := []byte("some text")
	m, err := pkcs7.Parse(s.sign(t, text, signAttached))
	assert.NilError(t, err)
	assert.NilError(t, m.Verify())
	kit.Want(t, bytes.Equal(m.Content, text), "content %q", m.Content)
	m, err = pkcs7.Parse(s.sign(t, text, signDetached))
	assert.NilError(t, err)
	kit.Want(t, len(m.Content) == 0, "a detached message has content %q", m.Content)
}
