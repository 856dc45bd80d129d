package dir

import (
	"testing"

	"github.com/distci/distci/lib/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m, Open) }

func TestStore(t *testing.T) {
	storetest.Run(t, Open, func(t *testing.T) string { return t.TempDir() })
}
