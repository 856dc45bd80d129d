package zk

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/coordtest"
	zktest "github.com/distci/distci/test/zk"
)

func openSpec(ctx context.Context, spec string, timeout time.Duration) (coord.Conn, error) {
	a, err := ParseAddress(spec)
	if err != nil {
		return nil, err
	}
	return Open(ctx, a, Options{SessionTimeout: timeout})
}

func TestMain(m *testing.M) { coordtest.Main(m, openSpec) }

func TestContract(t *testing.T) {
	for _, nodes := range []int{1, 3} {
		t.Run(fmt.Sprint(nodes), func(t *testing.T) {
			zktest.Require(t)
			e := zktest.Start(t, zktest.Options{Nodes: nodes})
			var n atomic.Int32
			coordtest.Run(t, coordtest.Harness{
				Open: openSpec,
				Fresh: func(t *testing.T) string {
					return fmt.Sprintf("%s/test-%d", "zk://"+strings.Join(e.Servers(), ","), n.Add(1))
				},
				Timeout: 2 * time.Second,
			})
		})
	}
}
