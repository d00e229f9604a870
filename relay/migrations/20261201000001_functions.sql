-- Which revision of each function the database has. The functions themselves are repeatable files, applied after
-- the migrations when the database has an older revision, or another text of the same one. A row stays when its
-- function is dropped: it tells programs that call the function that they are too old.

CREATE TABLE schema_functions (
    name       text        NOT NULL,
    revision   integer     NOT NULL, -- counted by hand: it rises with each change of the file
    hash       text        NOT NULL, -- SHA-256 of the file, in hex
    applied_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT schema_functions_pkey PRIMARY KEY (name),
    CONSTRAINT schema_functions_revision_is_positive CHECK (revision >= 1)
);
