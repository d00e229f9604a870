-- What is decided once for a database, by its first migration.

CREATE TABLE deployment (
    single boolean  NOT NULL DEFAULT true,
    shards smallint NOT NULL,
    CONSTRAINT deployment_pkey PRIMARY KEY (single),
    CONSTRAINT deployment_is_single CHECK (single),
    CONSTRAINT deployment_shards_are_positive CHECK (shards >= 1)
);
