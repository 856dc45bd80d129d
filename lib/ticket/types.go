package ticket

import "strings"

// The types that this project has a tool for.
const (
	GitCheckout      = "git-checkout"
	ExecuteShell     = "execute-shell"
	PublishArtifacts = "publish-artifacts"
	CopyArtifacts    = "copy-artifacts"
	BuildControl     = "build-control"
	CommitStatus     = "commit-status"
)

// prefix begins the name of every tool.
const prefix = "distci-"

// Capability is what a worker must offer for tickets of a type:
// "git_checkout_v1" for "git-checkout".
func Capability(typ string) string {
	return strings.ReplaceAll(typ, "-", "_") + "_v1"
}

// LabelCapability is what a worker must offer that carries a label.
func LabelCapability(label string) string { return "nodelabel_" + label }

// ImageCapability is what a worker must offer that has the image of that name.
func ImageCapability(image string) string { return "image_" + image }

// Tool is the name of the program for tickets of a type. The types of the
// original have shorter names; the tool of a type "foo" is "distci-foo".
func Tool(typ string) string {
	switch typ {
	case GitCheckout:
		return prefix + "checkout"
	case ExecuteShell:
		return prefix + "exec"
	case PublishArtifacts:
		return prefix + "publish"
	case CopyArtifacts:
		return prefix + "copy"
	case BuildControl:
		return prefix + "buildctl"
	case CommitStatus:
		return prefix + "status"
	}
	return prefix + typ
}

// TypeOf is the type of the tickets that a tool, given by the name of its
// program, is for; "" if the name is not that of a tool.
func TypeOf(tool string) string {
	for _, typ := range []string{GitCheckout, ExecuteShell, PublishArtifacts, CopyArtifacts, BuildControl, CommitStatus} {
		if Tool(typ) == tool {
			return typ
		}
	}
	typ, ok := strings.CutPrefix(tool, prefix)
	if !ok {
		return ""
	}
	return typ
}
