# One image for gateways and workers: `isochrone gateway`, `isochrone worker serve`.
FROM python:3.11-slim AS build
WORKDIR /src
COPY deploy/requirements.lock .
RUN python -m venv /opt/isochrone && /opt/isochrone/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
RUN /opt/isochrone/bin/pip install --no-cache-dir --no-deps .

FROM python:3.11-slim
RUN groupadd --gid 10001 isochrone \
    && useradd --system --uid 10001 --gid isochrone --home-dir /var/lib/isochrone --create-home isochrone
COPY --from=build /opt/isochrone /opt/isochrone
COPY deploy /opt/isochrone/deploy
ENV PATH=/opt/isochrone/bin:$PATH PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1
USER isochrone
WORKDIR /var/lib/isochrone
EXPOSE 8080 8001
STOPSIGNAL SIGTERM
ENTRYPOINT ["isochrone"]
CMD ["gateway"]
