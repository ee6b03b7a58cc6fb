# The broker in a container: docker build -t pystrands .
# docs/production.md says how to run it.

FROM python:3.13-slim AS build
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends gcc libc6-dev
WORKDIR /build
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY src src
# The image is compiled, or not made. What compiles is pinned by pip 25.3 and newer, which reads the second one.
ENV PYSTRANDS_COMPILE=1 \
    PIP_BUILD_CONSTRAINT=/build/constraints.txt
RUN python -m venv --without-pip /opt/pystrands \
    && python -m pip --python /opt/pystrands install --no-cache-dir -c constraints.txt '.[cluster,metrics]'

FROM python:3.13-slim
COPY --from=build /opt/pystrands /opt/pystrands
# Within a container only its own network reaches these; what others may reach is for `docker run --publish` to say.
ENV PATH=/opt/pystrands/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYSTRANDS_WS_HOST=0.0.0.0 \
    PYSTRANDS_TCP_HOST=0.0.0.0 \
    PYSTRANDS_ADMIN_HOST=0.0.0.0 \
    PYSTRANDS_ADMIN_PORT=9100
EXPOSE 8080 8081 9100
USER 10001:10001
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; ports = map(os.environ.get, ('PYSTRANDS_ADMIN_PORT', 'PYSTRANDS_WS_PORT')); port = next((p for p in ports if p and p.isdigit()), '8080'); c = h.HTTPConnection('127.0.0.1', int(port), timeout=2); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["pystrands"]
CMD ["server"]
