// Package authority is a SPIFFE certificate authority: it issues X.509-SVIDs and serves them to workloads.
package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"time"
)

// TrustDomain is the one that the examples of Network Service Mesh use.
const TrustDomain = "k8s.nsm"

// The roots outlive every test and cluster.
const rootLife = 30 * 24 * time.Hour

// Clocks of nodes differ: SPIRE dates certificates back by this too.
const backdate = 10 * time.Second

// SVID is one identity's certificate and key, as the Workload API carries them: DER.
type SVID struct {
	ID          string
	Certificate []byte
	PrivateKey  []byte
	NotAfter    time.Time
}

// Authority issues SVIDs: RSA-2048 roots and P-256 leaves, as SPIRE does in the examples.
type Authority struct {
	ttl time.Duration

	mutex sync.Mutex
	root  root
	// Certificates of all roots that workloads trust, oldest first.
	bundle []*x509.Certificate
	svids  map[string]*SVID
	// Closed and replaced at each rotation.
	rotated chan struct{}
}

type root struct {
	certificate *x509.Certificate
	key         crypto.Signer
}

// New makes an authority with one root, whose SVIDs live for ttl.
func New(ttl time.Duration) (*Authority, error) {
	first, err := newRoot(1)
	if err != nil {
		return nil, err
	}
	return &Authority{
		ttl:     ttl,
		root:    first,
		bundle:  []*x509.Certificate{first.certificate},
		svids:   make(map[string]*SVID),
		rotated: make(chan struct{}),
	}, nil
}

// RotateSVIDs gives every identity a new key and certificate at once.
func (a *Authority) RotateSVIDs() {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.announce()
}

// RotateRoot adds a root to the bundle and issues all SVIDs from it. Earlier roots stay trusted, unless retire is set:
// then certificates of earlier roots are no longer accepted.
func (a *Authority) RotateRoot(retire bool) error {
	next, err := newRoot(time.Now().UnixNano())
	if err != nil {
		return err
	}
	a.mutex.Lock()
	defer a.mutex.Unlock()
	a.root = next
	if retire {
		a.bundle = nil
	}
	a.bundle = append(a.bundle, next.certificate)
	a.announce()
	return nil
}

func (a *Authority) announce() {
	a.svids = make(map[string]*SVID)
	close(a.rotated)
	a.rotated = make(chan struct{})
}

// Current is an identity's SVID, the bundle in DER, and a channel that closes at the next rotation. An SVID is the
// same for all that ask, until half of its life is over.
func (a *Authority) Current(id string) (*SVID, []byte, <-chan struct{}, error) {
	a.mutex.Lock()
	defer a.mutex.Unlock()
	svid := a.svids[id]
	if svid == nil || time.Until(svid.NotAfter) < a.ttl/2 {
		fresh, err := a.issue(id)
		if err != nil {
			return nil, nil, nil, err
		}
		svid = fresh
		a.svids[id] = svid
	}
	var bundle []byte
	for _, certificate := range a.bundle {
		bundle = append(bundle, certificate.Raw...)
	}
	return svid, bundle, a.rotated, nil
}

func (a *Authority) issue(id string) (*SVID, error) {
	uri, err := url.Parse(id)
	if err != nil {
		return nil, fmt.Errorf("issue an SVID: %w", err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make the key of %s: %w", id, err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{Country: []string{"US"}, Organization: []string{"vl3-lb tests"}},
		URIs:         []*url.URL{uri},
		NotBefore:    now.Add(-backdate),
		NotAfter:     now.Add(a.ttl),
		KeyUsage:     x509.KeyUsageDigitalSignature | x509.KeyUsageKeyAgreement | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		// Explicitly no authority, as the SPIFFE X.509-SVID specification wants of a leaf.
		BasicConstraintsValid: true,
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, a.root.certificate, key.Public(), a.root.key)
	if err != nil {
		return nil, fmt.Errorf("sign the certificate of %s: %w", id, err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key of %s: %w", id, err)
	}
	return &SVID{ID: id, Certificate: certificate, PrivateKey: encoded, NotAfter: template.NotAfter}, nil
}

func newRoot(serial int64) (root, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return root{}, fmt.Errorf("make the key of a root: %w", err)
	}
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(serial),
		Subject:               pkix.Name{Organization: []string{"vl3-lb tests"}, SerialNumber: fmt.Sprint(serial)},
		URIs:                  []*url.URL{{Scheme: "spiffe", Host: TrustDomain}},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return root{}, fmt.Errorf("sign a root: %w", err)
	}
	certificate, err := x509.ParseCertificate(raw)
	if err != nil {
		return root{}, fmt.Errorf("read a root: %w", err)
	}
	return root{certificate: certificate, key: key}, nil
}
