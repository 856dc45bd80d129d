package cephtest

import (
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/distci/distci/test/need"
)

// Gateway is Ceph's S3 server.
type Gateway struct {
	URL       string // http://127.0.0.1:port
	AccessKey string
	SecretKey string
}

// Name of the gateway's process, for Kill, Pause and the like.
const gatewayName = "client.rgw"

// StartGateway starts a cluster with one OSD and an S3 gateway on it, and
// waits until that serves.
func StartGateway(t testing.TB) (*Cluster, *Gateway) {
	t.Helper()
	need.Programs(t, "ceph", "radosgw", "radosgw-admin")
	c := Start(t, Options{})
	port := freePort()
	g := &Gateway{URL: fmt.Sprintf("http://127.0.0.1:%d", port), AccessKey: "ciaccess", SecretKey: "cisecretcisecret"}
	f, err := os.OpenFile(c.Conf(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, `[%s]
rgw data = %s
rgw frontends = beast endpoint=127.0.0.1:%d
keyring = %s
log file = %s
rgw thread pool size = 32
rgw enable usage log = false
rgw dns name = localhost
osd pool default pg num = 4
`, gatewayName, c.path("rgw"), port, c.path("client.rgw.keyring"), c.path("log/rgw.log"))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(c.path("rgw"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.AddKey("rgw", "mon", "allow rw", "osd", "allow rwx")
	c.launch(gatewayName)
	for end := time.Now().Add(2 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if r, err := http.Get(g.URL); err == nil {
			r.Body.Close()
			break
		}
		if !c.Runs(gatewayName) || time.Now().After(end) {
			t.Fatal("cephtest: the gateway does not serve")
		}
	}
	_, err = c.command(time.Minute, "radosgw-admin", "-n", gatewayName, "user", "create", "--uid=ci", "--display-name=ci",
		"--access-key="+g.AccessKey, "--secret-key="+g.SecretKey)
	if err != nil {
		t.Fatal(err)
	}
	return c, g
}
