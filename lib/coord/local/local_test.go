package local

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/coordtest"
)

func openSpec(ctx context.Context, path string, timeout time.Duration) (coord.Conn, error) {
	return Open(ctx, path, Options{SessionTimeout: timeout})
}

func TestMain(m *testing.M) { coordtest.Main(m, openSpec) }

func TestContract(t *testing.T) {
	coordtest.Run(t, coordtest.Harness{
		Open:  openSpec,
		Fresh: func(t *testing.T) string { return filepath.Join(t.TempDir(), "coord.db") },
	})
}
