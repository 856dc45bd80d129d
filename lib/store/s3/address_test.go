package s3

import (
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/fault"
)

func TestParseURL(t *testing.T) {
	a, err := ParseURL("s3://ci-data/team/distci?endpoint=https://s3.example.com:9000&region=eu-1&style=host&credentials=/etc/c&profile=ci&ca=/etc/ca.pem&timeout=5s")
	want := Address{Bucket: "ci-data", Prefix: "team/distci", Endpoint: "https://s3.example.com:9000", Host: "s3.example.com:9000", Secure: true,
		Region: "eu-1", VirtualHost: true, CredentialsFile: "/etc/c", Profile: "ci", CAFile: "/etc/ca.pem", Timeout: 5 * time.Second}
	if err != nil || a != want {
		t.Errorf("got %+v, %v", a, err)
	}
	for url, endpoint := range map[string]string{
		"s3://bucket":                               "https://s3.us-east-1.amazonaws.com",
		"s3://bucket?region=eu-west-1":              "https://s3.eu-west-1.amazonaws.com",
		"s3://bucket/?endpoint=http://[::1]:9000/":  "http://[::1]:9000",
		"s3://bucket/p/?endpoint=http://10.0.0.1":   "http://10.0.0.1",
		"s3://bucket?endpoint=https%3A%2F%2Fs3.lan": "https://s3.lan",
	} {
		if a, err := ParseURL(url); err != nil || a.Endpoint != endpoint || a.Secure != strings.HasPrefix(endpoint, "https:") {
			t.Errorf("%s: %+v, %v", url, a, err)
		}
	}
}

func TestParseURLErrors(t *testing.T) {
	for url, says := range map[string]string{
		"s3:bucket":                   "expected s3://",
		"s3://":                       "bucket",
		"s3://A":                      "bucket",
		"s3://bucket/../x":            "prefix",
		"s3://bucket/a//b":            "prefix",
		"s3://bucket/.hidden":         "prefix",
		"s3://bucket/a b":             "prefix",
		"s3://key:geheim@bucket":      "do not belong into its URL",
		"s3://key:geheim@host/bucket": "do not belong into its URL",
		"s3://bucket?endpoint=https://key:geheim@host":      "do not belong into its URL",
		"s3://bucket?endpoint=https://host/geheim":          "nothing behind it",
		"s3://bucket?endpoint=https://host?secret=geheim":   "nothing behind it",
		"s3://bucket?endpoint=https://host?":                "nothing behind it",
		"s3://bucket?endpoint=host:9000":                    "http://",
		"s3://bucket?endpoint=https://":                     "https://host:port",
		"s3://bucket?endpoint=https://host:":                "https://host:port",
		"s3://bucket?endpoint=":                             "one value",
		"s3://bucket?secret_key=geheim":                     "there are endpoint, region, style, credentials, profile, ca and timeout",
		"s3://bucket?region=a&region=geheim":                "one value",
		"s3://bucket?style=geheim":                          "path or host",
		"s3://bucket?timeout=geheim":                        "30s",
		"s3://bucket?timeout=1ms":                           "30s",
		"s3://bucket?%zz=geheim":                            "cannot be read",
		"s3://bucket?ca=/x&endpoint=http://host":            "https",
		"s3://bucket/" + strings.Repeat("p", maxPrefix+1):   "at most 80 bytes",
		"s3://bucket?endpoint=https://ho\x00st&geheim=more": "",
	} {
		_, err := ParseURL(url)
		if err == nil || fault.Of(err) != fault.Config || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, kind %q; it should say %q", url, err, fault.Of(err), says)
		} else if strings.Contains(strings.ReplaceAll(err.Error(), `option "geheim"`, ""), "geheim") {
			t.Errorf("%q: %v repeats what may be a secret", url, err)
		}
	}
}
