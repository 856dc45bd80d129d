package ticket

import "strings"

// tools are the types of the 2013 original, whose tools have shorter names.
var tools = map[string]string{
	"git-checkout":      "distci-checkout",
	"execute-shell":     "distci-exec",
	"publish-artifacts": "distci-publish",
	"copy-artifacts":    "distci-copy",
	"build-control":     "distci-buildctl",
}

// Tool is the name of the program for tickets of a type.
func Tool(typ string) string {
	if tool, ok := tools[typ]; ok {
		return tool
	}
	return "distci-" + typ
}

// TypeOf is the type of the tickets that a program is for.
func TypeOf(tool string) string {
	for typ, t := range tools {
		if t == tool {
			return typ
		}
	}
	return strings.TrimPrefix(tool, "distci-")
}

// Capability is what a worker offers that has the tool for a type.
func Capability(typ string) string {
	return strings.ReplaceAll(typ, "-", "_") + "_v1"
}
