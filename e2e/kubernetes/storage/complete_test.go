package storage

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

const suitePackage = "k8s.io/apiserver/pkg/storage/testing"

// TestSuiteIsComplete ensures that no function of upstream's suite is left out: it reads the package's source and the cases', and fails for
// every exported Run… function that takes a test (not a benchmark) and is called by no case.
func TestSuiteIsComplete(t *testing.T) {
	dir, err := exec.Command("go", "list", "-f", "{{.Dir}}", suitePackage).Output()
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(dir)), "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	called := calledFunctions(t, "cases_test.go")
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		for _, name := range suiteFunctions(t, file) {
			found++
			if !called[name] {
				t.Errorf("%s.%s is called by no case", suitePackage, name)
			}
		}
	}
	// A rename upstream must not make this test look at nothing.
	if found < 60 {
		t.Errorf("found %d functions in %s, expected 60 at least", found, suitePackage)
	}
	t.Logf("%d functions, %d cases", found, len(cases()))
}

func parseFile(t *testing.T, path string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// suiteFunctions are the exported functions of file named Run… that take a *testing.T or a testing.TB.
func suiteFunctions(t *testing.T, path string) []string {
	t.Helper()
	var names []string
	for _, decl := range parseFile(t, path).Decls {
		fn, ok := decl.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Run") {
			continue
		}
		for _, param := range fn.Type.Params.List {
			kind := param.Type
			if star, ok := kind.(*ast.StarExpr); ok {
				kind = star.X
			}
			sel, ok := kind.(*ast.SelectorExpr)
			if !ok {
				continue
			}
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "testing" && (sel.Sel.Name == "T" || sel.Sel.Name == "TB") {
				names = append(names, fn.Name.Name)
				break
			}
		}
	}
	return names
}

// calledFunctions are the functions of the suite that the file calls.
func calledFunctions(t *testing.T, path string) map[string]bool {
	t.Helper()
	called := map[string]bool{}
	ast.Inspect(parseFile(t, path), func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok {
			if pkg, ok := sel.X.(*ast.Ident); ok && pkg.Name == "storagetesting" {
				called[sel.Sel.Name] = true
			}
		}
		return true
	})
	return called
}
