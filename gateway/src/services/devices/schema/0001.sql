-- Clients: machines and programs with a certificate of the appliance's CA.
CREATE TABLE clients (
    workspace TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,
    serial TEXT NOT NULL,
    certificate_hash BLOB,
    created_us BIGINT NOT NULL,
    not_after_us BIGINT NOT NULL,
    PRIMARY KEY (workspace, id)
);
CREATE UNIQUE INDEX clients_by_certificate ON clients (certificate_hash);
