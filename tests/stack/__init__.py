"""The whole of docker-compose.yml on a real Docker engine: `make test-stack`, see README.md."""
