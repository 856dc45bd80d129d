package ticket

import "testing"

func TestTypes(t *testing.T) {
	for _, c := range []struct{ typ, tool, capability string }{
		{"git-checkout", "distci-checkout", "git_checkout_v1"},
		{"execute-shell", "distci-exec", "execute_shell_v1"},
		{"publish-artifacts", "distci-publish", "publish_artifacts_v1"},
		{"copy-artifacts", "distci-copy", "copy_artifacts_v1"},
		{"build-control", "distci-buildctl", "build_control_v1"},
		{"foo-bar", "distci-foo-bar", "foo_bar_v1"},
	} {
		if tool, capability, back := Tool(c.typ), Capability(c.typ), TypeOf(c.tool); tool != c.tool || capability != c.capability || back != c.typ {
			t.Errorf("%s: tool %s, capability %s; the tool's type: %s", c.typ, tool, capability, back)
		}
	}
	if typ := TypeOf("make"); typ != "" {
		t.Errorf("make has the type %q", typ)
	}
}
