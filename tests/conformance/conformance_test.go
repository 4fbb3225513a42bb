// Package conformance_test runs the suite of the Gateway API against the GatewayClass of a cluster.
package conformance_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/util/sets"
	"sigs.k8s.io/gateway-api/conformance"
	"sigs.k8s.io/gateway-api/conformance/utils/suite"
	"sigs.k8s.io/gateway-api/pkg/features"
)

// profiles are all those that are about gateways.
var profiles = []suite.ConformanceProfile{
	suite.GatewayHTTPConformanceProfile,
	suite.GatewayGRPCConformanceProfile,
	suite.GatewayTLSConformanceProfile,
	suite.GatewayTCPConformanceProfile,
	suite.GatewayUDPConformanceProfile,
}

// mark begins the lines that say how a test ended; `cargo xtask conformance` reads them.
const mark = "conformance-result "

// result is that of a test of gateways.
type result struct {
	Test     string                         `json:"test"`
	Profiles []suite.ConformanceProfileName `json:"profiles"`
	Outcome  string                         `json:"outcome"`
}

func TestConformance(t *testing.T) {
	options := conformance.DefaultOptions(t)
	mesh := features.SetsToNamesSet(features.MeshCoreFeatures, features.MeshExtendedFeatures)
	// Whatever the GatewayClass says it supports: nothing is left out.
	wanted := features.SetsToNamesSet(features.AllFeatures).Difference(mesh)
	if options.ConformanceProfiles != nil {
		wanted = sets.New[features.FeatureName]()
	}
	for _, profile := range profiles {
		if slices.Contains(options.ConformanceProfiles, profile.Name) {
			wanted = wanted.Union(profile.CoreFeatures).Union(profile.ExtendedFeatures)
		}
	}
	options.SupportedFeatures = sets.List(wanted)
	if options.ConformanceProfiles == nil {
		for _, profile := range profiles {
			options.ConformanceProfiles = append(options.ConformanceProfiles, profile.Name)
		}
	}
	options.Hook = func(t *testing.T, test suite.ConformanceTest, _ *suite.ConformanceTestSuite) {
		if mesh.HasAny(test.Features...) {
			return
		}
		outcome := "passed"
		if t.Failed() {
			outcome = "failed"
		} else if t.Skipped() {
			outcome = "skipped"
		}
		line, err := json.Marshal(result{test.ShortName, profilesOf(test), outcome})
		if err != nil {
			t.Error(err)
		}
		fmt.Printf("%s%s\n", mark, line)
	}
	conformance.RunConformanceWithOptions(t, options)
}

// profilesOf are the profiles that have every feature that the test needs, as the suite's report counts them; none
// if it needs features of several.
func profilesOf(test suite.ConformanceTest) []suite.ConformanceProfileName {
	of := []suite.ConformanceProfileName{}
	for _, profile := range profiles {
		if profile.CoreFeatures.Union(profile.ExtendedFeatures).HasAll(test.Features...) {
			of = append(of, profile.Name)
		}
	}
	return of
}
