// Command vcsim is the vCenter (or lone ESXi) of the tests: govmomi's simulator behind a front that corrects what
// the simulator gets wrong and lets a test break things at will. README.md beside this file is its manual.
package main

import (
	"encoding/json"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/vmware/govmomi/simulator"
	_ "github.com/vmware/govmomi/vapi/simulator" // adds the REST endpoints
)

// apiVersion is what vSphere 8.0 Update 3 answers. With the simulator's own default of 6.5, pyvmomi speaks 6.5 and
// turns newer types into their parents without a word.
const apiVersion = "8.0.3.0"

type options struct {
	listen, control  string
	user, password   string
	certFile         string
	keyFile          string
	host             string
	credentials      string
	template         string
	esx, tls         bool
	datacenters, vms int
}

// ready is the one line of standard output; the certificate is PEM and empty without -tls.
type ready struct {
	URL         string `json:"url"`
	Control     string `json:"control"`
	PID         int    `json:"pid"`
	Certificate string `json:"certificate,omitempty"`
}

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar(&o.listen, "listen", "127.0.0.1:0", "address of the API")
	flag.StringVar(&o.control, "control", "127.0.0.1:0", "address of the control port")
	flag.StringVar(&o.user, "user", "administrator@vsphere.local", "the only user")
	flag.StringVar(&o.password, "password", "secret", "the user's password")
	flag.StringVar(&o.certFile, "cert", "", "PEM certificate (default: a new self-signed one)")
	flag.StringVar(&o.keyFile, "key", "", "PEM key of -cert")
	flag.StringVar(&o.host, "host", "", "a further name that the certificate is made for")
	flag.StringVar(&o.credentials, "credentials", "", "directory to write into what a Provider's Secret holds")
	flag.StringVar(&o.template, "template", "", "make a template of this name")
	flag.BoolVar(&o.tls, "tls", true, "serve HTTPS")
	flag.BoolVar(&o.esx, "esx", false, "a lone ESXi host instead of a vCenter")
	flag.IntVar(&o.datacenters, "datacenters", 1, "datacenters (vCenter only)")
	flag.IntVar(&o.vms, "vms", 2, "powered-off machines per resource pool")
	flag.Parse()
	if err := run(o); err != nil {
		log.Fatal(err)
	}
}

func run(o options) error {
	model := simulator.VPX()
	model.Datacenter = o.datacenters
	if o.esx {
		model = simulator.ESX()
	}
	model.ServiceContent.About.ApiVersion = apiVersion
	model.ServiceContent.About.Version = strings.TrimSuffix(apiVersion, ".0")
	model.Autostart = false
	model.Machine = o.vms
	defer model.Remove()
	if err := model.Create(); err != nil {
		return err
	}
	model.Service.RegisterEndpoints = true
	model.Service.Listen = &url.URL{Host: o.listen, User: url.UserPassword(o.user, o.password)}
	certificate := ""
	if o.tls {
		pem, config, err := serverTLS(o.certFile, o.keyFile, o.host)
		if err != nil {
			return err
		}
		certificate, model.Service.TLS = pem, config
	}
	double := newDouble(model)
	server := model.Service.NewServer()
	double.served()

	listener, err := net.Listen("tcp", o.control)
	if err != nil {
		return err
	}
	go func() { log.Fatal(http.Serve(listener, double.controls())) }()

	if o.template != "" {
		if err := makeTemplate(server.URL, o.template); err != nil {
			return err
		}
	}
	if o.credentials != "" {
		if err := writeCredentials(o, certificate); err != nil {
			return err
		}
	}
	address := *server.URL
	address.User = nil
	line := ready{address.String(), "http://" + listener.Addr().String(), os.Getpid(), certificate}
	if err := json.NewEncoder(os.Stdout).Encode(line); err != nil {
		return err
	}
	waitForEnd()
	return nil
}

// waitForEnd returns on SIGTERM, SIGINT, or the end of standard input: a killed test leaves nothing behind.
func waitForEnd() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		ended <- syscall.SIGTERM
	}()
	<-ended
}
