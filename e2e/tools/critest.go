// Package tools imports what critest's program, which is a test and thus no `tool` of go.mod, is
// made of: go.mod and go.sum keep only what something in the module needs.
package tools

import (
	_ "sigs.k8s.io/cri-tools/pkg/benchmark"
	_ "sigs.k8s.io/cri-tools/pkg/validate"
)
