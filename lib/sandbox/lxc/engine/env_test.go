package engine

import (
	"slices"
	"testing"
)

func TestEnvironment(t *testing.T) {
	for _, c := range []struct{ image, given, want []string }{
		{nil, nil, []string{defaultPath}},
		{nil, []string{"PATH=/bin", "A=1"}, []string{"PATH=/bin", "A=1"}},
		{[]string{"PATH=/opt/go/bin:/bin", "B=2"}, []string{"A=1"}, []string{"PATH=/opt/go/bin:/bin", "B=2", "A=1"}},
		{[]string{"PATH=/opt/go/bin:/bin", "HOME=/root"}, []string{"HOME=/tmp", "PATH="}, []string{"HOME=/tmp", "PATH="}},
		{[]string{"A=1", "A=2"}, []string{"B=x=y", "B=z"}, []string{defaultPath, "A=2", "B=z"}},
	} {
		image, given := slices.Clone(c.image), slices.Clone(c.given)
		if got := environment(c.image, c.given); !slices.Equal(got, c.want) {
			t.Errorf("%q below %q: %q, want %q", c.image, c.given, got, c.want)
		}
		if !slices.Equal(image, c.image) || !slices.Equal(given, c.given) {
			t.Errorf("it has changed what it was given: %q, %q", c.image, c.given)
		}
	}
}
