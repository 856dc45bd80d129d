package s3

import (
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Address says where a store is.
type Address struct {
	Bucket string
	Prefix string // of the names of everything that is in the bucket for us; "": none

	Endpoint    string // URL of the server
	Host        string // host[:port] of it
	Secure      bool   // it speaks TLS
	Region      string
	VirtualHost bool // the bucket is named by the host, not by the path

	CredentialsFile string // as the AWS tools have it; "": the environment, then their own file
	Profile         string // its section
	CAFile          string // PEM certificates by which the server is known; "": the system's

	Timeout time.Duration // silence after which a connection is given up, and the time for tries
}

const (
	scheme = "s3://"
	form   = scheme + "BUCKET[/PREFIX]?endpoint=https://host:port&region=REGION"
	// maxPrefix leaves room for the longest key and a name below it in the
	// 1024 bytes that S3 gives to a name.
	maxPrefix = 80
)

// options are those of the URL, for people.
const options = "endpoint, region, style, credentials, profile, ca and timeout"

// of tells whether s is not empty and has only letters, digits and the others.
// Not a regular expression: every program that can open a store would compile
// it when it starts.
func of(s, others string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune(others, r))
	})
}

// ParseURL reads s3://BUCKET/PREFIX?endpoint=https://host:port&region=R, with
// more options: style=path or host, credentials=FILE, profile=NAME, ca=FILE,
// timeout=30s. Errors are of kind fault.Config, and repeat nothing that may be
// a secret.
func ParseURL(s string) (Address, error) {
	wrong := func(format string, args ...any) (Address, error) {
		return Address{}, fault.Errorf(fault.Config, "store "+scheme+"…: "+format, args...)
	}
	rest, ok := strings.CutPrefix(s, scheme)
	if !ok {
		return wrong("expected %s", form)
	}
	path, query, _ := strings.Cut(rest, "?")
	if strings.ContainsAny(path, "@:") {
		return wrong("credentials do not belong into its URL, and the server is the option endpoint; expected %s&credentials=FILE", form)
	}
	a := Address{Region: "us-east-1", Timeout: 30 * time.Second}
	a.Bucket, a.Prefix, _ = strings.Cut(path, "/")
	if err := s3utils.CheckValidBucketNameStrict(a.Bucket); err != nil {
		return wrong("bucket: %w; expected %s", err, form)
	}
	a.Prefix = strings.TrimSuffix(a.Prefix, "/")
	if a.Prefix != "" && (store.CheckKey(a.Prefix) != nil || len(a.Prefix) > maxPrefix) {
		return wrong("prefix: expected at most %d bytes that a key could begin with", maxPrefix)
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return wrong("the options after ? cannot be read; expected %s", form)
	}
	var style, timeout string
	known := map[string]*string{"endpoint": &a.Endpoint, "region": &a.Region, "style": &style, "credentials": &a.CredentialsFile,
		"profile": &a.Profile, "ca": &a.CAFile, "timeout": &timeout}
	for key, v := range values {
		field := known[key]
		if field == nil {
			return wrong("unknown option %q; there are %s", key, options)
		}
		if len(v) > 1 || v[0] == "" {
			return wrong("option %q: expected one value", key)
		}
		*field = v[0]
	}
	switch style {
	case "host":
		a.VirtualHost = true
	case "", "path":
	default:
		return wrong("option style: expected path or host")
	}
	if timeout != "" {
		if a.Timeout, err = time.ParseDuration(timeout); err != nil || a.Timeout < 100*time.Millisecond {
			return wrong("option timeout: expected a time such as 30s")
		}
	}
	return a.withEndpoint(wrong)
}

// withEndpoint reads the endpoint, or takes Amazon's.
func (a Address) withEndpoint(wrong func(string, ...any) (Address, error)) (Address, error) {
	if a.Endpoint == "" {
		a.Endpoint = "https://s3." + a.Region + ".amazonaws.com"
	}
	u, err := url.Parse(a.Endpoint)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" {
		return wrong("option endpoint: expected https://host:port, or http:// for a server without TLS")
	}
	if u.User != nil {
		return wrong("credentials do not belong into its URL; expected credentials=FILE")
	}
	if !of(u.Host, ".[]:-") || strings.Trim(u.Path, "/") != "" || strings.ContainsAny(a.Endpoint, "?#") {
		return wrong("option endpoint: expected https://host:port, and nothing behind it")
	}
	if a.CAFile != "" && u.Scheme == "http" {
		return wrong("option ca is for an https endpoint")
	}
	a.Secure = u.Scheme == "https"
	a.Host = u.Host
	if host, port, err := net.SplitHostPort(u.Host); err == nil && (host == "" || port == "") {
		return wrong("option endpoint: expected https://host:port")
	}
	a.Endpoint = u.Scheme + "://" + u.Host
	return a, nil
}

// credentials come from the file that the URL names, or from the environment,
// or from the file of the AWS tools.
func (a Address) credentials() (*credentials.Credentials, error) {
	var c *credentials.Credentials
	from := "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, and there is no file of credentials either; set them, or give credentials=FILE"
	if a.CredentialsFile != "" {
		file, err := filepath.Abs(a.CredentialsFile)
		if err == nil {
			_, err = os.Stat(file)
		}
		if err != nil {
			return nil, fault.Errorf(fault.Config, "store: credentials: %w", err)
		}
		c = credentials.NewFileAWSCredentials(file, a.Profile)
		from = file + " has no aws_access_key_id and aws_secret_access_key in the profile"
	} else if a.Profile != "" {
		c = credentials.NewFileAWSCredentials("", a.Profile)
		from = "no such profile with aws_access_key_id and aws_secret_access_key"
	} else {
		c = credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}})
	}
	v, err := c.GetWithContext(nil)
	if err != nil || v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return nil, fault.Errorf(fault.Config, "store: credentials: %s", from) // err may quote the file
	}
	return c, nil
}
