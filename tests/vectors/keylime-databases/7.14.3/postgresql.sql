--
-- PostgreSQL database dump
--



SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: alembic_version_cloud_verifier; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.alembic_version_cloud_verifier (
    version_num character varying(32) NOT NULL
);


--
-- Name: alembic_version_registrar; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.alembic_version_registrar (
    version_num character varying(32) NOT NULL
);


--
-- Name: allowlists; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.allowlists (
    id integer NOT NULL,
    name character varying(255) NOT NULL,
    tpm_policy text,
    ima_policy text,
    checksum character varying(128),
    generator integer
);


--
-- Name: allowlists_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.allowlists_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: allowlists_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.allowlists_id_seq OWNED BY public.allowlists.id;


--
-- Name: attestations; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.attestations (
    agent_id character varying(80) NOT NULL,
    index integer NOT NULL,
    stage character varying(25) DEFAULT 'awaiting_evidence'::character varying NOT NULL,
    evaluation character varying(10) DEFAULT 'pending'::character varying NOT NULL,
    failure_reason character varying(25),
    system_info__boot_time character varying(32) NOT NULL,
    capabilities_received_at character varying(32) NOT NULL,
    challenges_expire_at character varying(32),
    evidence_received_at character varying(32),
    verification_completed_at character varying(32)
);


--
-- Name: evidence_items; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.evidence_items (
    id integer NOT NULL,
    agent_id character varying(80) NOT NULL,
    attestation_index integer NOT NULL,
    evidence_class character varying(20) NOT NULL,
    evidence_type character varying(30) NOT NULL,
    capabilities__component_version character varying(20),
    capabilities__evidence_version character varying(20),
    capabilities__signature_schemes text,
    capabilities__hash_algorithms text,
    capabilities__available_subjects text,
    capabilities__certification_keys text,
    capabilities__entry_count integer,
    capabilities__supports_partial_access boolean,
    capabilities__appendable boolean,
    capabilities__formats text,
    capabilities__meta text,
    chosen_parameters__challenge bytea,
    chosen_parameters__signature_scheme character varying(20),
    chosen_parameters__hash_algorithm character varying(20),
    chosen_parameters__selected_subjects text,
    chosen_parameters__certification_key text,
    chosen_parameters__starting_offset integer,
    chosen_parameters__entry_count integer,
    chosen_parameters__format character varying(255),
    chosen_parameters__meta text,
    data__subject_data text,
    data__message bytea,
    data__signature bytea,
    data__entry_count integer,
    data__entries text,
    data__meta text,
    results__certified_entry_count integer,
    results__meta text
);


--
-- Name: evidence_items_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.evidence_items_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: evidence_items_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.evidence_items_id_seq OWNED BY public.evidence_items.id;


--
-- Name: mbpolicies; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.mbpolicies (
    id integer NOT NULL,
    name character varying(255) NOT NULL,
    mb_policy text
);


--
-- Name: mbpolicies_id_seq; Type: SEQUENCE; Schema: public; Owner: -
--

CREATE SEQUENCE public.mbpolicies_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


--
-- Name: mbpolicies_id_seq; Type: SEQUENCE OWNED BY; Schema: public; Owner: -
--

ALTER SEQUENCE public.mbpolicies_id_seq OWNED BY public.mbpolicies.id;


--
-- Name: registrarmain; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.registrarmain (
    agent_id character varying(80) NOT NULL,
    key character varying(45),
    ekcert text,
    virtual boolean,
    active boolean,
    provider_keys text,
    regcount integer,
    aik_tpm character varying(500),
    ek_tpm character varying(500),
    ip character varying(15),
    port integer,
    mtls_cert text,
    iak_tpm character varying(500),
    idevid_tpm character varying(500),
    iak_cert character varying(2048),
    idevid_cert character varying(2048)
);


--
-- Name: sessions; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.sessions (
    session_id character varying(36) NOT NULL,
    token_hash character varying(64) NOT NULL,
    token_salt character varying(32) NOT NULL,
    agent_id character varying(80),
    active boolean,
    nonce bytea,
    hash_algorithm character varying(15),
    signing_scheme character varying(15),
    ak_attest bytea,
    ak_sign bytea,
    nonce_created_at character varying(32),
    nonce_expires_at character varying(32),
    pop_received_at character varying(32),
    token_expires_at character varying(32)
);


--
-- Name: verifiermain; Type: TABLE; Schema: public; Owner: -
--

CREATE TABLE public.verifiermain (
    agent_id character varying(80) NOT NULL,
    v character varying(45),
    ip character varying(255),
    port integer,
    operational_state integer,
    public_key character varying(500),
    tpm_policy text,
    meta_data text,
    revocation_key character varying(2800),
    tpm_version integer,
    accept_tpm_hash_algs text,
    accept_tpm_encryption_algs text,
    accept_tpm_signing_algs text,
    hash_alg character varying(10),
    enc_alg character varying(10),
    sign_alg character varying(10),
    ima_sign_verification_keys character varying(1000),
    verifier_id character varying(100),
    verifier_ip character varying(255),
    verifier_port integer,
    boottime integer,
    ima_pcrs text,
    pcr10 bytea,
    next_ima_ml_entry integer,
    severity_level integer,
    last_event_id character varying(100),
    learned_ima_keyrings text,
    supported_version character varying(50),
    ak_tpm character varying(500),
    mtls_cert character varying(2084),
    attestation_count integer,
    ima_policy_id integer,
    tpm_clockinfo text,
    last_received_quote integer,
    last_successful_attestation integer,
    mb_policy_id integer,
    accept_attestations boolean DEFAULT true NOT NULL,
    consecutive_attestation_failures integer
);


--
-- Name: allowlists id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.allowlists ALTER COLUMN id SET DEFAULT nextval('public.allowlists_id_seq'::regclass);


--
-- Name: evidence_items id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.evidence_items ALTER COLUMN id SET DEFAULT nextval('public.evidence_items_id_seq'::regclass);


--
-- Name: mbpolicies id; Type: DEFAULT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.mbpolicies ALTER COLUMN id SET DEFAULT nextval('public.mbpolicies_id_seq'::regclass);


--
-- Data for Name: alembic_version_cloud_verifier; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.alembic_version_cloud_verifier VALUES ('a59cc9366774');


--
-- Data for Name: alembic_version_registrar; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.alembic_version_registrar VALUES ('a59cc9366774');


--
-- Data for Name: allowlists; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.allowlists VALUES (1, 'fleet', NULL, '{"meta": {"version": 1, "generator": 3, "timestamp": "2026-01-01 00:00:00"}, "release": 0, "digests": {"/usr/bin/bash": ["82c0aad1330a0c428ee3f9b7ff0d5ba7e5238c550c58c17aa4ed27382902e002"], "/usr/bin/true": ["9d909bb688c2d95f68db246de98b0523f95f8c1ec95b958d8ec5751ebc5e2263"]}, "excludes": [], "keyrings": {}, "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {}, "verification-keys": ""}', '64a1d6e355507a01130684e97802cdaa48a50a8d43f32d3799578d1fb20f9ce2', 3);
INSERT INTO public.allowlists VALUES (2, 'signed', NULL, '{"payload": "eyJtZXRhIjogeyJ2ZXJzaW9uIjogMSwgImdlbmVyYXRvciI6IDMsICJ0aW1lc3RhbXAiOiAiMjAyNi0xMS0yMyAxOToxNzowNi4zNzIwOTQifSwgInJlbGVhc2UiOiAwLCAiZGlnZXN0cyI6IHsiL2V0Yy9lbXB0eSI6IFsiZTNiMGM0NDI5OGZjMWMxNDlhZmJmNGM4OTk2ZmI5MjQyN2FlNDFlNDY0OWI5MzRjYTQ5NTk5MWI3ODUyYjg1NSJdLCAiL3Vzci9saWIvdG1wIjogWyI2MWU0ZWMzZTRiODkxMzQyNDA2ZThlY2NjYWM1YzY2NDNjZDJhY2MwYzU0MTFkMWNlZmM1NjFlYjQ3Zjk3MmM2Il0sICIvdXNyL2Jpbi9hbHBoYSI6IFsiOGVkM2Y2YWQ2ODViOTU5ZWFkNzAyMjUxOGUxYWY3NmNkODE2ZjhlOGVjN2NjZGRhMWVkNDAxOGU4ZjIyMjNmOCJdLCAiL3Vzci9saWIvY2FmXHUwMGU5IjogWyI4NTBmN2RjNDM5MTBmZjg5MGY4ODc5YzBlZDI2ZmU2OTdjOTNhMDY3YWQ5M2E3ZDUwZjQ2NmE3MDI4YTliZjRlIl0sICIvdXNyL2Jpbi93aXRoX2Ffc3BhY2UiOiBbImQ2NTBjMjg0MTBmYjcxMWJmOGQyZjBhNjdkYTI4MTBjMTMyNjJmOTJlMzg1ZWJiOGFkMmM5ZTBjOTNjYjFmZGYiXSwgIi9ob21lL2Fubi96IjogWyI0OTkxNWUwZDdkNGI0MDJlMzAxN2QwMTBiYzFjMGU4M2NhYzZjNzk3ZDZjMTZlNjYzNDBmZTMyNjg2OTNhNmExIl19LCAiZXhjbHVkZXMiOiBbXSwgImtleXJpbmdzIjoge30sICJpbWEiOiB7Imlnbm9yZWRfa2V5cmluZ3MiOiBbXSwgImxvZ19oYXNoX2FsZyI6ICJzaGExIiwgImRtX3BvbGljeSI6IG51bGx9LCAiaW1hLWJ1ZiI6IHt9LCAidmVyaWZpY2F0aW9uLWtleXMiOiAiIn0=", "payloadType": "application/vnd.keylime+json", "signatures": [{"keyid": "9c12f99675dd7872c740ccdacb4ef8ae4d1082681d1fa6d35f39cbd622da5c78", "sig": "MEYCIQCOlGQuI22igSQ0JsMTVwUhkcI8NiL6iAa9UMPioL+XLQIhAIGfLpMWk+ipssg3/GrLd8Ovyv+E67z2DyBgkIu3scI3"}]}', '1056d3446757a83087be43dbfe268719a8773412c06821a10e759854b6f27485', 3);
INSERT INTO public.allowlists VALUES (3, 'machine-push', NULL, '{"meta": {"version": 1, "generator": 1}, "release": 0, "digests": {}, "excludes": [], "keyrings": {}, "ima": {"ignored_keyrings": [], "log_hash_alg": "sha1", "dm_policy": null}, "ima-buf": {}, "verification-keys": ""}', '77a69e90482ed291bf52004e4c43485d074a756a87e3de64330c5cbed616a69e', 1);
INSERT INTO public.allowlists VALUES (4, 'broken', NULL, '{"digests": {"/bin/sh": ', '44b6734deebb969bf24fd3961a01d3730e16bfb3b321eff4884daec8363aa883', 3);
INSERT INTO public.allowlists VALUES (5, 'without-text', NULL, NULL, 'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855', 3);


--
-- Data for Name: attestations; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: evidence_items; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: mbpolicies; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.mbpolicies VALUES (1, 'empty', '{}');
INSERT INTO public.mbpolicies VALUES (2, 'refstate', '{"scrtm_and_bios": [], "has_secureboot": true, "unread": "x"}');


--
-- Data for Name: registrarmain; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.registrarmain VALUES ('machine-pull', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICrTCCAZWgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAXMRUwEwYDVQQDDAxtYWNoaW5lLXB1bGwwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCiRWjUkZ1RJ8tyhf0e635GtaOewr6VkJPlaTQhr50wvr0ec2frQL0hqIvO9UY9DsiFJKy7F0wd02v5MZ0TVaeUraFd+hdvem4M7IcuyUMmswsoMiuRqCFRX+EseD7wGsrN1Jhfyn8SYnqbAiZhkkGMJKJAG2svKGNqmviqXCK3KCe35mHpyVMwe9VPY0dqHYJ4Ar8oQbbTYiJim37BjxoXTi4qgzGphd8IjypsaFkV2JfWBr3P8bLrcUNI/L8aP7ScZbd6d/DIoB6Zt4gQgzXc47JBtyOAC9GBb2eI10YLG/teqJeZmsfLlJ3wNctCVloG+3WM4t1M+5suZW38Ui7PAgMBAAEwDQYJKoZIhvcNAQELBQADggEBADnVBwkqr3umdf39bhbR9FFkZuKAbzu1A7YS/arWBg4gp5IwFwomNEdpt7ScYEx5jzr9X+SWhVuZNz/PKRGQDl4bywHUxFfj93iErezOrH16jt5+CpOPe8d4O328At3ubXmU2v1ZL6GK/ZztvJ/cQXACwCoB9FGABDS5lHw9wlGk9xXgkDJJvPyBPE2qmz3O3tB6SuaD7CWBFoN4eA1WyC2D3m8Phv35MTfcGCrnh3QcWB+ykNv5qdRG/NbSLwmnKme3b6Axrv5ElHE1wIw6I/XGL5mjydBsPTyVPUmJl0n2X+Y8mdsLJRMBqkitPxFdtBkmT9umbLNTJWoHM2a+j/s=', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCahozrjk4gUwMqMehboMaeXKYqi9ST7AKrzBWySm7jhuhN2cRajQaAGCB9LxuX5HSBM2+PCC2mCRb/oCv5DxAlyYpJfGlX7m407KyA5jWFI3VRENzqnTZnSvC1tZVefB8Bv1bVCo1Qz9ZUznMW7DHrfSnGaJ85FJWVraEfJsoQPoA+LRU/05xG4kC5t7gapbLYJIxecCcI79VIkgFAUSRvIGhQ1p/glstFoL73k8dRbf6pJdnOB3Rl0e1fDyM5aiArm9EUGVm0rR6uTU3abzPSqe3r2+72dj4Jcb6fjampn5C2TomyzvO6dXxmrMhcli+dsRVd/jexb+/MRCh+ezVx', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAokVo1JGdUSfLcoX9Hut+RrWjnsK+lZCT5Wk0Ia+dML69HnNn60C9IaiLzvVGPQ7IhSSsuxdMHdNr+TGdE1WnlK2hXfoXb3puDOyHLslDJrMLKDIrkaghUV/hLHg+8BrKzdSYX8p/EmJ6mwImYZJBjCSiQBtrLyhjapr4qlwitygnt+Zh6clTMHvVT2NHah2CeAK/KEG202IiYpt+wY8aF04uKoMxqYXfCI8qbGhZFdiX1ga9z/Gy63FDSPy/Gj+0nGW3enfwyKAembeIEIM13OOyQbcjgAvRgW9niNdGCxv7XqiXmZrHy5Sd8DXLQlZaBvt1jOLdTPubLmVt/FIuzw==', '192.0.2.29', 9002, '-----BEGIN CERTIFICATE-----
MIIBGjCBwaADAgECAgEHMAoGCCqGSM49BAMCMBcxFTATBgNVBAMMDG1hY2hpbmUt
cHVsbDAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBcxFTATBgNVBAMM
DG1hY2hpbmUtcHVsbDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCOpCOHSm7nr
rzKSGSMRBqHhXSZtgdzF43knep/qhK+Puz+NVot6j3GTxoENyL0XJ7LzlOWV0ZP3
SCGDyEZP75AwCgYIKoZIzj0EAwIDSAAwRQIhAOn7qCmGrz3lGbpk8gFxKVWO3KvZ
vyTL+VGQlSiEuYS9AiAbSQlqdnC1ZIwKHts+4hkz1lywjqjcF15eUQNfoeJoaQ==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-signed', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICrzCCAZegAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAZMRcwFQYDVQQDDA5tYWNoaW5lLXNpZ25lZDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAOrnkoNEcHwb2C/LQASt/JG4d8dEYivioLt5e4opv/v0OofEDQYYeyji7LhjUlY/koJGHyuq3wckdYDkxn8YCzkLS/Kw3xJZbi0h41IWQojj3Gyq7LThgCH0rd/gH74OlYktHJ7CirPykHeagFNCRgf0ej7daExN3jcf6GWy0s6JSrEOraopP5UzTt7Revvf0niTtN2z99fnToPf4mxqP1/nhIUole8j6IZJwIuVml6Cm874Msk95lgyDbAl5ZFv0kTbp7Q1fkt9T1hrQefGvPIvyOTLfccIoZ4OURtIAqh/ArNGQhxfMOT1sTFkmEbsVlySrFmexYbYUKQ/aw1Hy3cCAwEAATANBgkqhkiG9w0BAQsFAAOCAQEAWf/Nlh9gTAR5XSDw+UhM3tZq2+ln5aKEzEIfPNrUQg/pczEepHNsFPq8yM/v2hOyGd0/vE4Vc1I/mtw11SdPXYjgSl4kkjnpMPtYAO7ZQTmPHISG8FFwclJ8bciFuwuhKdfiG9h9UwQFY5n7H1PvEx0udXyl/w/obAMWhQx1K76ex4joUT0BIn5H6cDQsudigKWfgAxzBcH87MSlpM5smSrm+oE/XUlJoxWlauqJRvNQ8Rdd3jaUk8zHFWb31Ek0h9r5N57pwEuZ7Sy/ZxSO47MQzhhZtynGBQTHwGX1jv5/YJkteYMdBnBUOs8BLDMqtajkRgwL3tUW9KAA3ID1wQ==', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDiIzB8Yosy0JDuG7yDdZvuMY2odgxlo1VsPcupKK5XOBKnaAAZo2P+QDfZAPo/r7p1Uxd1GQ3mcPkwO3PJ1xpoPG7UovSiRO9Lxcqyh7BRgvWJRDzdrFsD1oobl5NqjqDwTCe1X0QTaYuUz+E6YRmp1ZZ+7yItL86jMM+eB39zO6dmqXz4OD1bW1ADct3S4rFu+kXjipjsj8fZ2iGqqIHLZ5rlNjzpgHFDOaqJaRw2oJu6bhDjh0MM7G1nPQlCWBfbu20WDx9bTtnhppx49OusnCirPYTo7pJC1gB7pkOooSDvVKHv0Qg31NxZFDvm/9nK8sTKbvUJ+rxdgOHwy5Sr', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEA6ueSg0RwfBvYL8tABK38kbh3x0RiK+Kgu3l7iim/+/Q6h8QNBhh7KOLsuGNSVj+SgkYfK6rfByR1gOTGfxgLOQtL8rDfElluLSHjUhZCiOPcbKrstOGAIfSt3+Afvg6ViS0cnsKKs/KQd5qAU0JGB/R6Pt1oTE3eNx/oZbLSzolKsQ6tqik/lTNO3tF6+9/SeJO03bP31+dOg9/ibGo/X+eEhSiV7yPohknAi5WaXoKbzvgyyT3mWDINsCXlkW/SRNuntDV+S31PWGtB58a88i/I5Mt9xwihng5RG0gCqH8Cs0ZCHF8w5PWxMWSYRuxWXJKsWZ7FhthQpD9rDUfLdw==', '192.0.2.26', 9002, '-----BEGIN CERTIFICATE-----
MIIBHzCBxaADAgECAgEHMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMMDm1hY2hpbmUt
c2lnbmVkMB4XDTI2MDEwMTAwMDAwMFoXDTQ2MDEwMTAwMDAwMFowGTEXMBUGA1UE
AwwObWFjaGluZS1zaWduZWQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARMa5CA
T66HDXtykf59bV7GXrOpIXPSj44xTygprKuZoY9ZX73GiuSIFgSB29VFhLfR2xoB
v9YSx0i81kAWvPYOMAoGCCqGSM49BAMCA0kAMEYCIQCQWX46iP/eQnvLHweYZ4As
iXNzSPQFchzcDxL1f8Kb3gIhAORJVc9QcDxX+AAq2IKmBeCULn8VepFlYYAmHHY4
vP85
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-failed', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICrzCCAZegAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAZMRcwFQYDVQQDDA5tYWNoaW5lLWZhaWxlZDCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBALGjQTwrpr8m6yPscHmYK+WmAYlwFFNTPZUI0HENbSn883Tr1GzSVPo6vlIF2TRRPr4jSX1fqb05sWSSlHU45ARpjyMN7fRdgFr+qLGw1L48tyP17GKAcxVLlK84uprFDMP6p0rNs28uZsuSzJeeUBHp2vbzzePgL90gTSvabDYTgFasvZyI3tg0mabCvDctUWONlrDybn4/vCP3dzfLMzBy3+K3fp3TKNv+ZUD4pVaTGs7aIAjjuRBe/nyQmtUOgm7pbB2qDvySKDY2BuOruKGB9JWTiC/I8Rzgu0eigfS4R1iLLVP7CIl/M+0p9RmqzFijZbOVbTwdZLZ6Jw6xhZUCAwEAATANBgkqhkiG9w0BAQsFAAOCAQEAEOF10oCb3cYpl4hybc2ae2awAz9uBhDPkVgRwmxJoj8TzDohrLNw3CFDPPeclQUS2LM9X0lLIBmnchJ+OJsVW6Nqvn+QS8yu5oICdUnXVMyFE/nj0pHNhBI1tVH7DbenwtMOQe73SvRWbfRLtu3MPoEKaWdWVNASnwU/cMeY69zoriO/s56LUvVg2dNZV9UbHVMepoS/KtxvB9NXzDlk01GzrkVbFPqJ/Mn4LSDfm5zWnoSKttIWQO/dY6QKL8G9XmMlUekBMEb7FZ8XZwFSM3Ofe25HQjeIj+qUt0MllfQPLbKqE5QU+u2P1Q98cz1781klimoNxd1+NGI66vOb6Q==', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCXFnDtbIFVJvMX0THzNUnEy3L2Rx1b///AD/Xd/+uWLD6fuL5CK4A7F26Kp6jn8TSBPjGebGj3BJ+5jNfyX80jNyBplqc3U/CGX3bCmDOmpk2ROJAecB3Hqvwq5JvnGccaQMBXaLrq8Zy3oLcl9mxel/T54AksK4VWZEMSFo8UoPYfInqmBfA13gfugK2eCdVRGP45AJH2nNVJccj/rmYon64HMJl9Ssz4C/6Kg+MEaViUfQ/A0ubW2AUrZ26pGhMRtNBCm83WfolwuTijscQmxvGgH+BZHilqd3l9C6McbPIkvqNJdLYZGW8EamF1vPklGO+a9jlbhVnZL5oUBdJr', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAsaNBPCumvybrI+xweZgr5aYBiXAUU1M9lQjQcQ1tKfzzdOvUbNJU+jq+UgXZNFE+viNJfV+pvTmxZJKUdTjkBGmPIw3t9F2AWv6osbDUvjy3I/XsYoBzFUuUrzi6msUMw/qnSs2zby5my5LMl55QEena9vPN4+Av3SBNK9psNhOAVqy9nIje2DSZpsK8Ny1RY42WsPJufj+8I/d3N8szMHLf4rd+ndMo2/5lQPilVpMaztogCOO5EF7+fJCa1Q6CbulsHaoO/JIoNjYG46u4oYH0lZOIL8jxHOC7R6KB9LhHWIstU/sIiX8z7Sn1GarMWKNls5VtPB1ktnonDrGFlQ==', '192.0.2.115', 9002, '-----BEGIN CERTIFICATE-----
MIIBHTCBxaADAgECAgEHMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMMDm1hY2hpbmUt
ZmFpbGVkMB4XDTI2MDEwMTAwMDAwMFoXDTQ2MDEwMTAwMDAwMFowGTEXMBUGA1UE
AwwObWFjaGluZS1mYWlsZWQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASjx1VX
NzrtLb8v+xMsDMnMWSZ0aICpTZOJLcCkpFxvD8rIfoAFmJ/VWN+P587Nus0HCaQe
QGnMowuDkl9G07GnMAoGCCqGSM49BAMCA0cAMEQCIC5JthYFiVust7Eie5kMUjHR
a8tml+tO9AvHW28uALlZAiBElhxGYXPVIvcdXffMXrlEjfFYdT24zXpxS4xkbZf1
RA==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-unreachable', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICtDCCAZygAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRwwGgYDVQQDDBNtYWNoaW5lLXVucmVhY2hhYmxlMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtGYuvR6YXa5njBqtqzobnqAtupDtsTXDl0ulCtI3iMSbqa62vWqwa9FxIviJSh0oS11scQPRcM+FxrWUloF4CXTUVH/OIvjEQuUjh/ELVX12YLQ3Gih2jkRKvsHsp+PD9+tB305YCwb9oussUFLxWMdYYpglS4QvnudZqDuh2TCV/SQA5SBKaExYKkVLq9R0IYzcgZ/PPEeoboIs+/7hndLOjlpo47cOp+58/DDTdZpYLO71NH7duKKqmZv966hLdG2SgHMsyHd7D0Hi6d3GWfN4c4yKFnwRHwcbWCFmCyeGWnspCescMtBZuTCJHywIyI4RLpNTnmQrUN0haGf4qQIDAQABMA0GCSqGSIb3DQEBCwUAA4IBAQA9mjWTa3KSbraZ+fjEn2YKL5LiRqFESaE7uF2A6MKu2VKh9QHxmb/mrMwM4FZwJrYP7O1CWyQoL8OXkvKnHqQcVqmzR/GvQfltEJqVqKufwSiEdNiDA0rDvXzkZV28OutmZblPekvAJqlJazUO5TgeC3tps7LiwNGUlesC0qqr06rtEJsQKYnB1fLMiU+qzpRXaHwUUKuT6PdhpLEC2vSjOOaP0FCgnG0+QSHY3/5Oil4t8ou/qRhElVJ5El5o8LkMtOKve5WH9Q7eE5WKDukKiqvua2DBKrCS+xkWVFCORosXkrMRnhrGewfvM58qV/PuHXMtqbiq8U9Jz+uT3brj', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCvLTppyCN8k8Es4nBfpHcwcKJPxnA/Z55qb3y3km5R7zlaum+7M6/G4iWNELfiMHEyOJ46ZAhqyEokwSl+87Pk6oaqmUgPBfqRPRl9l/wGAwJFnH9q5muqQ47j+gaqut6qe13Sbv6/plmichQTD1DetiXBgie2rAiyn9+PvA4kRdYX7XVnASOJgkcROgd6hq8FIUoJYQwPQO9U0izwvLOGigvo7pQMLzqbzfW6xTubQuevppm067+QXnzzj2Z7iMeCQzkxbfztkWQ0pfNzP51a7ZJkxzbVC4jaZSrGmJA3TUwKyD1QO05JFIH6nXfSY+LjGstuTvuIdMElIfW09JBl', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAtGYuvR6YXa5njBqtqzobnqAtupDtsTXDl0ulCtI3iMSbqa62vWqwa9FxIviJSh0oS11scQPRcM+FxrWUloF4CXTUVH/OIvjEQuUjh/ELVX12YLQ3Gih2jkRKvsHsp+PD9+tB305YCwb9oussUFLxWMdYYpglS4QvnudZqDuh2TCV/SQA5SBKaExYKkVLq9R0IYzcgZ/PPEeoboIs+/7hndLOjlpo47cOp+58/DDTdZpYLO71NH7duKKqmZv966hLdG2SgHMsyHd7D0Hi6d3GWfN4c4yKFnwRHwcbWCFmCyeGWnspCescMtBZuTCJHywIyI4RLpNTnmQrUN0haGf4qQ==', '192.0.2.87', 9002, '-----BEGIN CERTIFICATE-----
MIIBJzCBz6ADAgECAgEHMAoGCCqGSM49BAMCMB4xHDAaBgNVBAMME21hY2hpbmUt
dW5yZWFjaGFibGUwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRww
GgYDVQQDDBNtYWNoaW5lLXVucmVhY2hhYmxlMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEoS0ut6vNW3uNQaukr16BSteG9CTuRITALouuZNb35V0qEZ8IIq57PtKP
5M4TFQNy15sGO1ljONV95pvQcFwcTDAKBggqhkjOPQQDAgNHADBEAiAh7yMyAoJI
zZW39/dweJPqmLFBhGg/wvEGuoJQcAHioQIgY9fn3RygBjQDk9zKDweDqGMVAHs8
zf1WGNVKaaaH850=
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-stopped', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICsDCCAZigAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAaMRgwFgYDVQQDDA9tYWNoaW5lLXN0b3BwZWQwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCocJzwYmptbz9JsOiXmSi/xetMrIq2dyHQuL3k/L2NzmmdlkTaSvHPebEhqiu5gWV8YpLoaV8Bz21xF1wkE3cLx5FKd99rK3RiASe82tJLKfd2L3isMZ8IPp+/i9Jk14XlCTAm3JsAlXfz+SIIfFBiS5a/erchaVoBAMFFsVl/e2suu4Co0HAA3Rm8mVTFmQC/MtnHbGRMlcRWARvvxAauJ2o1hZZpX/Fh8hkE8B5UNV8/eHuQg1CN21e5M3LhsShgLYgI2SzID7ztGBBZHbk4M+RHHyZ/SgKPShjVMzu9Eqll3NC2fQQ84BhjdKaQgHqOn5rDiibdumilJAvccVRRAgMBAAEwDQYJKoZIhvcNAQELBQADggEBAHr+LYtVXUJ07EcdeDSALfM0gPAoIeXozX/tAnADTbqv0KqFzqsVewDlPLU/yzaAyP6I2L8u6hQrAB0bVLhZ/2Z6CTIXgY0xeXXT4iYZivpcuY72RfspZ8VZVT6eEEJnmyLhpDtVZDnOvRwNphtcQNWnhQYQo3n0sYxYZCPhablD8jerQPdY+7l80zMRKBJF0rvlrFOtMvAiiSgu2EVRtNTEPTCTsclPRCPIGyXmum1jnnXKk/lG+ZCt8k9/6LfMZCzWxgRmpi5lGzNFTfucYELN/s/PCIEaBx256G1pVOAFqJMJ27yYWMDzBFUa5LGZ4DMJo9iPzzNXbpyf75M/ZcE=', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQC80OrgqimdnANZNCqVDkvQFT0aBb8/B2IHu2u3T2HBmfibNadzE2UAHYsNecqdvQdzAtMmNmvm0eDmbm6Hkfz3jkTp1gF7JrQRhktg9lqEpiQ/7yW7ecZjNn1vzxK/d8IVdvU8Oo6FSgUtvxH99J9wYiuaVZAAegVmLJYUYpysDgBiXT8Q6aQv8scpW796ZxrDPTzKqYNvdfaeprlybslsaQdIOgDF35SKvtp5Lm9ZcSLjlhmtDUN5jLob9lXwy79sWHNxGKnIUFgljzweYazjqjFGvAqYnhseDzZ1q1hkSRoAtWm/ihMrFxnFcoRt0KkGF6ovDEnWPERJeMY5Ue07', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAqHCc8GJqbW8/SbDol5kov8XrTKyKtnch0Li95Py9jc5pnZZE2krxz3mxIaoruYFlfGKS6GlfAc9tcRdcJBN3C8eRSnffayt0YgEnvNrSSyn3di94rDGfCD6fv4vSZNeF5QkwJtybAJV38/kiCHxQYkuWv3q3IWlaAQDBRbFZf3trLruAqNBwAN0ZvJlUxZkAvzLZx2xkTJXEVgEb78QGridqNYWWaV/xYfIZBPAeVDVfP3h7kINQjdtXuTNy4bEoYC2ICNksyA+87RgQWR25ODPkRx8mf0oCj0oY1TM7vRKpZdzQtn0EPOAYY3SmkIB6jp+aw4om3bpopSQL3HFUUQ==', '192.0.2.93', 9002, '-----BEGIN CERTIFICATE-----
MIIBIDCBx6ADAgECAgEHMAoGCCqGSM49BAMCMBoxGDAWBgNVBAMMD21hY2hpbmUt
c3RvcHBlZDAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBoxGDAWBgNV
BAMMD21hY2hpbmUtc3RvcHBlZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIDZ
aT0tNU+4cpdmjZUopKNINeu1iEvfwn+0nxkcx7HXTtlJPfJ0KHamYOWzdQxQmQtz
wW5hK4wY1wxp2tQPNXMwCgYIKoZIzj0EAwIDSAAwRQIhALzoNUhbdDiQtrD4unX3
3elLuLa4mSlSgQQI+bUawQzdAiAhiDY3rjXjjxXBfPrSuSzXJ+5TRTdnYUOXQv96
YTNPeg==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-leaving', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICsDCCAZigAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAaMRgwFgYDVQQDDA9tYWNoaW5lLWxlYXZpbmcwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCVssOoD7UdXHvxPyAd+soFfXBgspQcJdhhvBKg2fz75kupvmBI5Xq6dFt02WG905Unhi52gKtby4NE6mHuMpqD9yzqfsbIPZMsWMucWAjhGP5XOQQu4ZK/mz3RIxi68yBC+4DfGWy8904WHAnCz0ZXFvFdy2OBJH81rRwRq5ASu9r4z+ghltuV8UO2tddQLbGOYVGgulFi5lho1bCJ2X4xW2NL9FNziFPNpIlxEpQLNNtachP4tWsxPXve1baxwJWBS1SsDgMWH+9ATEkUquk++HGqZUV3IRAEOFe2t7STsEyRkcJToaMjeR+A/og+5mc73uNm8ubK0Q7tGn1tYN4BAgMBAAEwDQYJKoZIhvcNAQELBQADggEBACQjJiMBxZaSmPZGX5LtvrRcaErsvSpeTYY+GqyUVvkEtZWl4BhXQncuxlwf1WSArClpdiV6QBtOW5Pe5jJdNoZTNpyGFfYCLO8ITg7vaNywD3NvIOwAzfZwuZoJ+exHJMxnmSiyT/u38R998KYW+E5FYHL0wb3R24vfxkWP1L6Q/V+NMH+8xmY+ZmVBWevIJkRUWwJolJHvmR2hXQ3KQ/yaFYm+yA09jAuxpNGwzbsnTtM0VZlacRYvFA0PZfs9bBhEEhCi5mnNwFDeEP/lZFLP+Vl1QvIjhQ+NmMd15weQc0Ky90aJeCHgWXwRc1qd6M1xo3U4TQ7B1EuGmNA94xU=', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCqjRSpOz3VtsRtteLMR334e54997Nbnap+5m9ZDvl+VoZN9+JIAzj8cOyVyoHHvrdn68oCCbjBsLa8ETDDTc5qyW48L/KKLX5Zn6LM9madvtl9a354xMy+wtprkDdHcDeMHj+os+Mw8bnLS9MPZBk8WpN9CqH6Xwpk2GcghE2YxnqarOHID1LXwvPlAr7pEEB/aMQ6RksKUY8mE/8JDRc2I8YKdis5ZvYXgrh+gqVJQNbRXaZdSdHEVYxNp9OIXSJPUhEgOE0/FOSSCp+kmiXASQ2dYzpF37RkNVfOqvGl0q28CYa3boAjKX+6S8ozF4Jh1OoJFEp5EApvGn99L/ch', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAlbLDqA+1HVx78T8gHfrKBX1wYLKUHCXYYbwSoNn8++ZLqb5gSOV6unRbdNlhvdOVJ4YudoCrW8uDROph7jKag/cs6n7GyD2TLFjLnFgI4Rj+VzkELuGSv5s90SMYuvMgQvuA3xlsvPdOFhwJws9GVxbxXctjgSR/Na0cEauQErva+M/oIZbblfFDtrXXUC2xjmFRoLpRYuZYaNWwidl+MVtjS/RTc4hTzaSJcRKUCzTbWnIT+LVrMT173tW2scCVgUtUrA4DFh/vQExJFKrpPvhxqmVFdyEQBDhXtre0k7BMkZHCU6GjI3kfgP6IPuZnO97jZvLmytEO7Rp9bWDeAQ==', '192.0.2.81', 9002, '-----BEGIN CERTIFICATE-----
MIIBIDCBx6ADAgECAgEHMAoGCCqGSM49BAMCMBoxGDAWBgNVBAMMD21hY2hpbmUt
bGVhdmluZzAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBoxGDAWBgNV
BAMMD21hY2hpbmUtbGVhdmluZzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOcO
UfhHQ8hv4+NRosR2Kgzvn6WBe4HYfVinxg+cZ/cESMlYWftZt8SAhbbcj9HSHXnr
EMS6HXo514T9qQrfxSUwCgYIKoZIzj0EAwIDSAAwRQIhAOhoAxu9xuWKIX6BH1tv
G2rwliGSTR1I6kwpHIkb724PAiANsFUBnE026Qd3yWalR6BhTjbzyRH3kK0iVNDY
MoBYRg==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-push', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICrTCCAZWgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAXMRUwEwYDVQQDDAxtYWNoaW5lLXB1c2gwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCjAPX8yCo7ktxNB2Ibz+qWuOeEdjihgKst9JhCe1GKyH/T35qLjKDWL+0v/XO9BsSv9sjHtADPx/1R7xknp+3NKglrxStc2Cd5kUGcLYZknu4tR4ZW3k66T8cU7pMDq3QBfeVxJx03qkmkipmkYLltEil/6mcNDQS1kcuYyoJ5tCLSV4d8AssPyRIsgDjcFJH2jgReGLnuDOcAarp6/qVwEGMjqfKmbrpKlHDkWGhz+driIIYD6rdlQIWra36pHIu08s2k0D022zWsA0+4KTmcTYBUO7xOSlIKmVgPQc8UR3ycF0rbSuwveI2Q4YeG/BPbCFy4s4KOevopMqAtvrhfAgMBAAEwDQYJKoZIhvcNAQELBQADggEBAGqaIW/nmJmbblpkgCWzBP12SX0+6a9ka88zDOhFrj3bwjaDGwnGAmhsXpb3MUTw6iD7Ev1PPflPPTw3WtTsMMexvpT5vOsNnAiKC7qnKX59w8F1gpcAT5U225hDDJcS8wUnj7RdbhmpYmRIkzOhoSz9SrhJZO/kBET7W8bHEY7akqV/mgRTpvb5AmBkQb/vV0oYWsUY1WPASOAsS8s/TLzP8+T+RoaMq0ISgboFIO0BEBywqNQdHhp1LhOw/HtmsZK4btk+hfjKmaw0H1ziszfE3BrfMY0lOkatZ0zjZh6i9T/nb5k7pyPLgrPbCigWDnZ9ev3u5Ey3N+4bb5Kfquw=', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQD4l7lWbHhXciGY129rvOTD0m0czp+yEky34XKjMM1fr++piK+bdW3Dswdttf+w4tkC95WO4MfKqNvYh+RcBnZIy0PxKOE8yF6wKeEev2XsuWlQVg/K/51XYcFVjV/PaFj+4vnRtbT7HVYhsHpnxX/IcOAYWVjxDk0pkFQCzh3R/pUFPWvL06RJwnxzrTkEWFVBRRZ2a8Yt/q/zXLuG/CZNS7MneeS1EaPeislCCr1xrfb3Jd1jIAifFhP0WbbdErdvVhrFO9heaBKztBHJs9aI0JUJboDsjLHFn1ynoK6yw15u4aCZiOIa7vusu5iocECFKZhqc71HnHioXO4UaqrZ', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAowD1/MgqO5LcTQdiG8/qlrjnhHY4oYCrLfSYQntRish/09+ai4yg1i/tL/1zvQbEr/bIx7QAz8f9Ue8ZJ6ftzSoJa8UrXNgneZFBnC2GZJ7uLUeGVt5Ouk/HFO6TA6t0AX3lcScdN6pJpIqZpGC5bRIpf+pnDQ0EtZHLmMqCebQi0leHfALLD8kSLIA43BSR9o4EXhi57gznAGq6ev6lcBBjI6nypm66SpRw5Fhoc/na4iCGA+q3ZUCFq2t+qRyLtPLNpNA9Nts1rANPuCk5nE2AVDu8TkpSCplYD0HPFEd8nBdK20rsL3iNkOGHhvwT2whcuLOCjnr6KTKgLb64Xw==', '192.0.2.31', 9002, '-----BEGIN CERTIFICATE-----
MIIBGjCBwaADAgECAgEHMAoGCCqGSM49BAMCMBcxFTATBgNVBAMMDG1hY2hpbmUt
cHVzaDAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBcxFTATBgNVBAMM
DG1hY2hpbmUtcHVzaDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKssSvoRGrXa
FK8j6Q0GW3Y+tVGC0bH8CP0JrHzBats537vWd1TF0e5Y7C4xpgsn/4qfp2Nu/oVo
+GeP7Nxoq6owCgYIKoZIzj0EAwIDSAAwRQIhAIRFtpZZe40ZnAljEpNlC1EG90bT
kqXl3RNpxdkeu7RoAiBrpZKWid8R5fPDaU6TOCG3aNaDq/EaGrcSHGo0oedevg==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-push-failed', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICtDCCAZygAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRwwGgYDVQQDDBNtYWNoaW5lLXB1c2gtZmFpbGVkMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAhG+jOHLEjXGt+bnMS63nYdV8fbIeTI9DKf9N1YxRxRTfJNIbJuUuxbhF0G27oZ206iBOJQVFJEfbwRwvAdC1Wleb6Vyoj72llp9ss4nGruUEK45vJXF8NAQ7sxXwFfCDTZADvYu89HFIxZEUHYl7iWm6+pde9zSK4DtF9a/tlZk9E5RmiI2qMDjXjaLygSIwIkVKnwTgv4ZZ1Kyxtfg0z5Ih8E0kiAQTzkJSXsYxybgpTTBm7AYi3h5dvn+oKtQlukFuE7hRSS2lgq5V+skrdOUpV2mLYvGd5xD2KdRyNdR3OJqdQ9om8l5fi3sNN/HY13xBaYTdClsOUfRgVxrJYwIDAQABMA0GCSqGSIb3DQEBCwUAA4IBAQBh99uHGjs6Q8aVoNrtF/7YklwordVAoVo2YZTs51jFS6/Kegx7byd25WHQav7d7bp1JcQBuxJ2LyBkhO2UTx4eBURur8LnFgnQOca3OfORVGtMow4NqpLH/MCj6XAR0vZXw4236BRBbwFOsIUIl0BdI2WRdkR2sowB76ZvfhS02O+wUMklecHAveIljiFTs/jEe35rBxAiqL3TZGNiFFwRdGPdvmdILnMrAst97s8e4uI6SFSUn4BhDnEga06Cd5Zp3znIUc0wILB9EUbnWTi2mJT6lf0RmL399risfIWO2q+/72pUzPfPBLvN6t7uS41JkceOMl0AFyLbX5nlyo/X', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDNTatac56tTv3S7j8o5H7TD6mK3DRD4a++mcp6ygum6xeCToCaukCVeLtYYP30adjGC2SWEXVtye7dyn3tU0bDyoWMmW7wNR96MM8Sg3ESr6bJqhFG4PJdMODUPXiBRxgL/H2tOU3LEk60vKzP+ZSWlJ635WLhjo3j9I37RuipveHDkbStI/f+8l7Su2WWNe+j4GwNUHEI3ItVKkX35sgeTSos7mfsI8jaIsg9cABq+Puyd5/O0Nw3T0syn/X3FEnfgq1OeuevuDrmAMBjfZhu5NJtCB9sJ0DHjDMHHvy2VfCa7jkorH35JnKHMvt2syiotvIX7voDWXtHojeyqmm9', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAhG+jOHLEjXGt+bnMS63nYdV8fbIeTI9DKf9N1YxRxRTfJNIbJuUuxbhF0G27oZ206iBOJQVFJEfbwRwvAdC1Wleb6Vyoj72llp9ss4nGruUEK45vJXF8NAQ7sxXwFfCDTZADvYu89HFIxZEUHYl7iWm6+pde9zSK4DtF9a/tlZk9E5RmiI2qMDjXjaLygSIwIkVKnwTgv4ZZ1Kyxtfg0z5Ih8E0kiAQTzkJSXsYxybgpTTBm7AYi3h5dvn+oKtQlukFuE7hRSS2lgq5V+skrdOUpV2mLYvGd5xD2KdRyNdR3OJqdQ9om8l5fi3sNN/HY13xBaYTdClsOUfRgVxrJYw==', '192.0.2.67', 9002, '-----BEGIN CERTIFICATE-----
MIIBJzCBz6ADAgECAgEHMAoGCCqGSM49BAMCMB4xHDAaBgNVBAMME21hY2hpbmUt
cHVzaC1mYWlsZWQwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRww
GgYDVQQDDBNtYWNoaW5lLXB1c2gtZmFpbGVkMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAERFUacztzhzkDvXqHPFDGIRKtk3+hxZ4u8GOTKVbVYrj5FEdV0F5qvYwp
GE+klfPuWT79nWis4cbs/f3PbpSmSDAKBggqhkjOPQQDAgNHADBEAiAl/PyU38g4
smBYYCgX2+e/rqCUQbiCaOjLx3Roc0IXewIgYu3u4rTO5TtC/6oXj6iuHQVJZyGL
9qD0aro4ZpHA5GE=
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-push-silent', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICtDCCAZygAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRwwGgYDVQQDDBNtYWNoaW5lLXB1c2gtc2lsZW50MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAkGsDe4Ddlx2FLxEozR+HVZAkqbaVibRIm27gLTz0dcL7soTnzAagArZcjqeQ8xS2hXvDgWtt5I/Apr+lTyI05a01Nd4NPxdssv8kV8+ivrgzgBLwjH7LmbADV64xG/Y47XC+EF/V2sSYHwjxe+ey4b5QEAlTW+mu3zC+3uIm5hpfJ/GPxXs4/SB4/QHmBQIydW/Wn+mARmLJYG/BJT/CFZmA4EC1szgAAyHoYPu6S8P2HGgND4VyQccyx8M/Jx5BHLynkeZV4UAyD/zbFMAWA3ySBJrLh+kO4DojWYz1fINc+qRM4Uk68XSLRn5+MV360nwqFzT5cczT4nfIG/sWwwIDAQABMA0GCSqGSIb3DQEBCwUAA4IBAQAjzk6qIzLI1ED+nzJJb0SoxgFQCc8nFzGfIlSZ8hLq30CcN6KKhnirg8wnGX0VVV0ycO9YyioHp7Z2veDQKTKGhcH42tlB8HZgAz+R1Q8G85K8YNZALYOBtyM7KcCgICTTYncCL+MOyeJfQX7zpENm48+/qwgcbp6eO6lZ65qhUuY6G5uCHI5ZdLs8T5m86b3GZa3jA+hKtwO6+hr73g99bkZUKF61fN1odtdEJ0zhc015U2vJjdJ9Fq28sJlcbUyBt2oVeBXMpqX9O2DJ+P1Otw9ZEBav4GB9dTfKag0N2FsMg8MHqcmUOn83JcF0fT5XhfPoDk3aBWvpprSNrU18', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCy0OsijQD3W/bE9FsTimsAZSHHQRFg9kjBbkFo//AezQMzJqURbF4dA8l+YlAalIdxomLBjSCNh+Jh6ebnwWOApxM235WP0UjPigrRSnTeCntKrUDwTwUKprhCA1bA5o76Nga+lc/Mcuvtpdp/r0cWt1VgWsffcg0dEo586BQLE4lcWHFxOcwdFSYiDZHkK6LLhzCa+N+TZFEd0amJ1+6GV3xSXLr5vPewHM/hFpFa9p8B9NM7f74cH3GFskmgNcgM+WQmSCjrjynfHe3KKuMluGqShiGmjRsDlS1VeGUMafgzQmoyJEHm2XV383PwJL0i1YvhZsiFYFkzeQXpO5+f', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAkGsDe4Ddlx2FLxEozR+HVZAkqbaVibRIm27gLTz0dcL7soTnzAagArZcjqeQ8xS2hXvDgWtt5I/Apr+lTyI05a01Nd4NPxdssv8kV8+ivrgzgBLwjH7LmbADV64xG/Y47XC+EF/V2sSYHwjxe+ey4b5QEAlTW+mu3zC+3uIm5hpfJ/GPxXs4/SB4/QHmBQIydW/Wn+mARmLJYG/BJT/CFZmA4EC1szgAAyHoYPu6S8P2HGgND4VyQccyx8M/Jx5BHLynkeZV4UAyD/zbFMAWA3ySBJrLh+kO4DojWYz1fINc+qRM4Uk68XSLRn5+MV360nwqFzT5cczT4nfIG/sWww==', '192.0.2.88', 9002, '-----BEGIN CERTIFICATE-----
MIIBKDCBz6ADAgECAgEHMAoGCCqGSM49BAMCMB4xHDAaBgNVBAMME21hY2hpbmUt
cHVzaC1zaWxlbnQwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRww
GgYDVQQDDBNtYWNoaW5lLXB1c2gtc2lsZW50MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAElpuG4LqrBy4toiv6u3Zqs9pTV73aWzRkBZXbzbgNGkjXwvNKX2eMZW2k
7St2pzjdGGBuTA2rGNyDA3D6Q/ZR6jAKBggqhkjOPQQDAgNIADBFAiEAqUJe426S
Hr7CqLg2GjHsRDshZzGOYrh7fKSti4oDDkECIAJgDVL4C4xlR2eIEXkIBCQLQ6ud
tzvUj3dDiKhERuQT
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-broken-policy', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICtjCCAZ6gAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAgMR4wHAYDVQQDDBVtYWNoaW5lLWJyb2tlbi1wb2xpY3kwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQCkrGINVg6ruYX7GySLSifLTW23X1+raoVuFJ2LvqXrkHKxfbH6ZhfGfBmb2l8bygwvcz7mC+LgVi6vQY2VdtO9FO2CzakBU//9EwSNh7hmCgpop1MpP21C7gcgiK/ep8am982w0fKjU+7ceH8rMcESMUhaCKGxz5jTEIJWxP7r47Y5moAerDnbRT1D+nlryD8cyyXZRtZ/O4Uui+61f3+C3NSjKQy5invV9fd/U3nj7CW45YMgEGsf4tr0p/cBDE2u886yD3tscRAVrqwciudDyYxD+Qvv8hB/LUp8ji4Av6T3trXXPoWqFFGk1gi5wwzodsWJf30tlwx8KiinCB+xAgMBAAEwDQYJKoZIhvcNAQELBQADggEBAB2K36znITsYZ0PNTaeh8oKgUFoLFzai7NSZkUHt8ORIjPp6cuexRwiLJP0oBbxaz19LOyK26GIHpRDlR7PGXL2C/FoixFqq39i2vcGdVpUrXz6aNv0l7PdB80WOprCmEHOBkVotc4Bk1JI/XGwyZ5W16XUVPv6dVLfaUoqjRShKhIzfST589+ErnVYoBgjSuICsTLfEwO//8SOoWUGMgHOO/itIpPn7vxc2s5aQ7Cmj/8NSLb8GIMzd3+YpqYkPyDE1qVbF/QutGtPnSHn7eUPS2zFBEBdhIJvsrepAPSfzX6TSpAekVRYKEDuRbqKyMnBF/tMzrgdjpF9F6XB/u/c=', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQC1f714l63HUUSIaO4q9uvEgaW6o3QcK530OLwcNgHnKCh7Z6Uplmww5YUzmxPLNoaaTRt96WC9yhf2K2+duSl8Fdi9j/A0JzvmdQl+vVNJB3YbEa+wiF29W5hDsgPBshbD6eu30y803z93LvjdWm8SheBfke3ZuKlO6p4WpvB7szEz05DP2KjHMsXB+bbWYN75GCHz0hO1lA9mq3oZ86TIaGUDRN8AWCvRX2K/UUj1w2xFMFNshSTmlvbn21mguHPCptjh4lwoWDSCUT3+R0CvlfZHlDgGTxZzWep1/Td9Iez2Pknjh85bjU9iraPtDo92vVE3xWd4Ys6rEBOhQmI/', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEApKxiDVYOq7mF+xski0ony01tt19fq2qFbhSdi76l65BysX2x+mYXxnwZm9pfG8oML3M+5gvi4FYur0GNlXbTvRTtgs2pAVP//RMEjYe4ZgoKaKdTKT9tQu4HIIiv3qfGpvfNsNHyo1Pu3Hh/KzHBEjFIWgihsc+Y0xCCVsT+6+O2OZqAHqw520U9Q/p5a8g/HMsl2UbWfzuFLovutX9/gtzUoykMuYp71fX3f1N54+wluOWDIBBrH+La9Kf3AQxNrvPOsg97bHEQFa6sHIrnQ8mMQ/kL7/IQfy1KfI4uAL+k97a11z6FqhRRpNYIucMM6HbFiX99LZcMfCoopwgfsQ==', '192.0.2.87', 9002, '-----BEGIN CERTIFICATE-----
MIIBLDCB06ADAgECAgEHMAoGCCqGSM49BAMCMCAxHjAcBgNVBAMMFW1hY2hpbmUt
YnJva2VuLXBvbGljeTAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMCAx
HjAcBgNVBAMMFW1hY2hpbmUtYnJva2VuLXBvbGljeTBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABJWiR7lDwT9wxzTJFH6YTVCcN8AbiGHq0pbRvC31SXEhQBjkyT6F
dxI4dd+vTY+i0c2tDZQ3qV8W5Mh1qBabKfAwCgYIKoZIzj0EAwIDSAAwRQIgPpHR
9OTNL7st15T8T28QdefOFSMUBFJ0LpsNSsIjtDkCIQCV/v0648v/0ibhGGKK3H86
mB89LyjUOYK3Mk8drWGUzw==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-refstate', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICsTCCAZmgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYDVQQDDBBtYWNoaW5lLXJlZnN0YXRlMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAyFNtRmPZ9wh1ze2o9hwHNPeg7mC2i2X/dldfzORjF5tcjCvFhPMVEcsbi518h88Rfpcj8ipq6LyHLKoTvh8mNMLD53z3GGIgeEwLSdIW2vnnJz9hBrMnMX/yPse6gwmqcBxRubCU+klTk5/c8Gm2HLmyeWwN+tTYVQ46rx21pyY0q9xeAxa9TH9UbloTCDMcmbeu5dTWom0yw3u67gRrB4TaW/4OKtbfW7mGSJVKHQQi3r47KYB9KvHett1lw47sP/AEmwwmMG/td5zYnVU3yEOHUh9ollhiXesDpIVYyrwp4nqUC0uDlVWt8P6OA9a+wX+VYjPRyJdU0+6ObbnI+wIDAQABMA0GCSqGSIb3DQEBCwUAA4IBAQAyZ40HKjCEKfqkTd/URDcz5VYzTVMi/INEoiv+4TkqPnGZRk8tJlcHftyTmrI7BcS9SkMKLk0rzS7uQ5b5e2FYDHmilO3DakO5hmZZND3z9jGMT13U4HD1S6pn65+F0FWgghXfu/3g/Sjja3IHlLbEqQ9Sq1BycTO1F6eOAGR2l6ACZ30SrZ+xnTTBLwY+H4MCZY7LlO86Q7sKKog0ZB0vAEcBND5PIL1A5ygBQOqq7jjMOS/KHl75oQypCe6LGAtYRyDpD+/Jltehb3A5gE8clc1i+byouukJSkW5RFMEPeVhMXOEnVyGC8mDdftAz4/O/l1g6EksbLzvw5gF1UHO', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCi7hWZ2lqOIVVlJWD2iK8KifzFLbBpgmga1/iL87Qkc9aAG2CDfMQRyPoWrxBzFHS3phdUlFfYd/cg6dJl+ukYYRgWTS32hx4Ti92dELl0Y3+yso4ORZZ7s8MwFm24LuKSU490hn6TOU4yfq27hyz9EP5kACpRfrVvHGB8AipZjZn7rT1FTJKk0yw3l777ChcLhfcL4AxTPX24n0hjc+Xek2UATP8+5M9KDBXOeun9qXQEaXXJ1hiEhjs61JuhENPzHjbLm3lJuySY7HoUwNfUwR4Dmkm/fhRZ6gYCL/MoE2bkQFvrza3ehavCX7SJAQVYr4c8fAzhczG8xQ030sk3', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAyFNtRmPZ9wh1ze2o9hwHNPeg7mC2i2X/dldfzORjF5tcjCvFhPMVEcsbi518h88Rfpcj8ipq6LyHLKoTvh8mNMLD53z3GGIgeEwLSdIW2vnnJz9hBrMnMX/yPse6gwmqcBxRubCU+klTk5/c8Gm2HLmyeWwN+tTYVQ46rx21pyY0q9xeAxa9TH9UbloTCDMcmbeu5dTWom0yw3u67gRrB4TaW/4OKtbfW7mGSJVKHQQi3r47KYB9KvHett1lw47sP/AEmwwmMG/td5zYnVU3yEOHUh9ollhiXesDpIVYyrwp4nqUC0uDlVWt8P6OA9a+wX+VYjPRyJdU0+6ObbnI+w==', '192.0.2.42', 9002, '-----BEGIN CERTIFICATE-----
MIIBITCByaADAgECAgEHMAoGCCqGSM49BAMCMBsxGTAXBgNVBAMMEG1hY2hpbmUt
cmVmc3RhdGUwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYD
VQQDDBBtYWNoaW5lLXJlZnN0YXRlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
eFDDBeZPdK9Mee7ioji4Mf9U5h5SIQzzXNjdzEuF54lvxJrSJFN81bMpc4kTLIZN
TLPdvLywCTx5i1+PPhB83zAKBggqhkjOPQQDAgNHADBEAiAqmUheIKf8nEO7n1c2
3K5yAEHEPBjTtoCtFlE5vKTGkwIgfep6ingh7Zrj82Q40izOiBcUmSF9/XUiQHvS
h2eZFKU=
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-other-key', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICsjCCAZqgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAcMRowGAYDVQQDDBFtYWNoaW5lLW90aGVyLWtleTCCASIwDQYJKoZIhvcNAQEBBQADggEPADCCAQoCggEBAMC9SYzpzdZi3SHnkrF5zyc3cfv5L65WZ2XEuvdqAwEj+oixh+eXoxCc0q3qf6YmGajcnF0iPzvfYM3qnss6Hb616VxxSYuSsii/CPn4TqGB2b6H+xmyagxHI6JDIbSffCRa47E94y0X2D53+ZQod6V8QAol/mfGjBYgjQrJ3q95KenbMeV4R8pUp+8bTVQx4fDHF4CvJU9esZULJj5MZfUaI4Hs77+vhSW0RbBqcBfJ8wCpOYXKCA3TlTix+KSb6ZQmIiTdm8m4V52PYSBwf02zM4NyDg5BUbAWrlgu8pNTKmHpHq3zPN8glcEDUFEk5mCJRqWeP62j/2HsBBLz5MMCAwEAATANBgkqhkiG9w0BAQsFAAOCAQEAH1JyaUCve9Lud0sduXhx1SYhE/aLbsNYJmfTf7wniG1+izwMVshQJfObLsi+l6uo0sWG2i1YuNFreN3LwoMyOfV0/ySuNPIhuGTkKTAjS4nXHYiOoMEi4SSM28Lt7+L1Yq2qvb3a9ZYA46Gl0M2LSNW+YMSVLr1jURyQthM5WfEAgCN0ZMLlr+H7cei89Ph9+hVcc8pVhJr7KTaIOk/iqMd00rMs1mBkmw+V0QC0eo+a2t1SA8E8kNhC9iJzCOPFbsFuIK7bK5tUpjuuecx+Dc6wR+nmlrzF0QQajb1L7mAU6ZOVHb3OgEK9L0A4KQKegn1o3kMQHvQ7bxH4A9As2g==', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCfn0lKm6m3zk50eiS05jbcw0lrcx8Qomv/7P300aV3sIyDzqizPpRm4WPXcuCd2ZkuWYctUKfc7eJxOEPU3/MQM6mM3fU7Hk96ufmsIvhqh0IE4VUcCEN0/wwolz4KtVKRxy8PUyJ6GiuebRPCfKQze19qu09rOtcOlkeN+ZFjcg8jilHGBi+z91xjvyxAtQ76z/PzIZ+iEKN3b1E/2CabmTKW4Fh+GJdnZIqvWMYTNtKMzlfzj9TpKHNxukqxatBUpMs6JEHx6f/AXq89rJiougf+uNcA1IP74Khz5QyqLLsmPsFTLDxKHIsq3DNUlroD60VmBURAbp6EuWJ+u/yB', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAwL1JjOnN1mLdIeeSsXnPJzdx+/kvrlZnZcS692oDASP6iLGH55ejEJzSrep/piYZqNycXSI/O99gzeqeyzodvrXpXHFJi5KyKL8I+fhOoYHZvof7GbJqDEcjokMhtJ98JFrjsT3jLRfYPnf5lCh3pXxACiX+Z8aMFiCNCsner3kp6dsx5XhHylSn7xtNVDHh8McXgK8lT16xlQsmPkxl9Rojgezvv6+FJbRFsGpwF8nzAKk5hcoIDdOVOLH4pJvplCYiJN2bybhXnY9hIHB/TbMzg3IODkFRsBauWC7yk1MqYekerfM83yCVwQNQUSTmYIlGpZ4/raP/YewEEvPkww==', '192.0.2.72', 9002, '-----BEGIN CERTIFICATE-----
MIIBJDCBy6ADAgECAgEHMAoGCCqGSM49BAMCMBwxGjAYBgNVBAMMEW1hY2hpbmUt
b3RoZXIta2V5MB4XDTI2MDEwMTAwMDAwMFoXDTQ2MDEwMTAwMDAwMFowHDEaMBgG
A1UEAwwRbWFjaGluZS1vdGhlci1rZXkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQ/MikVrB+CovV6IaGcy9Tt56zjh6kx+6PtQSktVZDd8JqJT/BO8y/mrllQe0y3
UtuV4ETQnmiDSUONbPCcZlLYMAoGCCqGSM49BAMCA0gAMEUCIDo71gUdQE6rLtnC
3C6WSq8v6TjN5/ugowmA+H7tSMxoAiEA2srD6yeQAvtS8T5nWyMyR9VIwjdxfjjl
gNVCmRj8NP0=
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-weak-key', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICsTCCAZmgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYDVQQDDBBtYWNoaW5lLXdlYWsta2V5MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAtQkXrjD5w/7KlP08yjdY5bDRy8PVE0pPP14QU9pBRV9TBoW96yMzR0jI9XhxDGlksQ2wa2np0rG9QEr/YSeaD03zl6veH7Wnnm5i/RuVMUO4ItR5XlYDq/iNTGvuhBjkBS9BJrCg+Kc9Ly+zjAPV3C4WYNLv1CzWYqKay/NDVagoaeAUycf9i6ZYCyRtJzfCcrio9dQXZNkBCI0BWvix6ihbEa8VnBaNdWRAKsptmizkXR30TJ4UVowlTo9ExojQQWWJvg1ZGN76HXRNhkYm8RkXUewagOvtGUsnDObmHxwufiVlXsA2umjvM7itKn/qSBM+29LaM5ELdg2m64E9eQIDAQABMA0GCSqGSIb3DQEBCwUAA4IBAQAK0+XMZs827K3KNxt8tL1/NalqyPXlENwxLYLm2ETrP1AK6puI1fWY9ixp28Iw/eye5EnxDRrm/qoB62Qtzc72MIeTeDOVCb1y67QdSRjNPRaPkxyBqatn4q7TfzUcWtIuupnJZnii3g/Dk9dwEvf6VugliAgtIsK/2mzzmvmx/VSchKacjunP4KXNSJE0CWIDg8/6DygzZTwN5IuTFWxlNkIduTzDRhD8EkZnNjwJz4zfFxuMg0uSciqIbSUnYcF4KF4RsVRnnArXO7o5emtj79YPXFznrqpRAcStBVX0Q9mNxZ4nUEo17U+WQpavA6FEAP6pUNYEPIZSxaW0m988', false, true, '{}', 2, 'ARoAAQALAAIAcgAAAAYAgABDABAIAAAAAAABALs26+B5XXQFxgeTungDi3VSKGWjh3J3O2VQOunQh8iH7aoCHitx5BqcKO7lF8Uae+JaCGLLAHcKYhW7kRgQlKW10BKudLiaEzGhOvmKdhYGtkNsG/5qjCumVgwRRHMVjPNZKTdxj5fNgITFVRqqLSd2u+c6k+8/zIiulVZxTmkTN0ar3yTqcEzUDW0UPz2f/8NtG10GsJ5gC7DDsnpWIKb4IbGOeOGt9SSDLFUkHOLWyYBivz+JNlNz2JyXv2pxupmS6+OUj9JMh/4ZZZH6iZFlnOJlA/8xiUrtmMKDp5rr1tTZ24sW66+1fjQTexHz/8K4My7wkdnqftJ0i9orxM0=', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAtQkXrjD5w/7KlP08yjdY5bDRy8PVE0pPP14QU9pBRV9TBoW96yMzR0jI9XhxDGlksQ2wa2np0rG9QEr/YSeaD03zl6veH7Wnnm5i/RuVMUO4ItR5XlYDq/iNTGvuhBjkBS9BJrCg+Kc9Ly+zjAPV3C4WYNLv1CzWYqKay/NDVagoaeAUycf9i6ZYCyRtJzfCcrio9dQXZNkBCI0BWvix6ihbEa8VnBaNdWRAKsptmizkXR30TJ4UVowlTo9ExojQQWWJvg1ZGN76HXRNhkYm8RkXUewagOvtGUsnDObmHxwufiVlXsA2umjvM7itKn/qSBM+29LaM5ELdg2m64E9eQ==', '192.0.2.110', 9002, '-----BEGIN CERTIFICATE-----
MIIBIzCByaADAgECAgEHMAoGCCqGSM49BAMCMBsxGTAXBgNVBAMMEG1hY2hpbmUt
d2Vhay1rZXkwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYD
VQQDDBBtYWNoaW5lLXdlYWsta2V5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
RuXGVSr6QVYsN3UrcARq0AMAuSKEYYmSsVsGlEk65gFZISncmmtwf//9Tj1p0Iys
Mc3BQCXMd7SQ+8WfLqZJ0zAKBggqhkjOPQQDAgNJADBGAiEA8HdNOuN1DJy87og4
ZBLW4vTD2w6fD5K594FLKsEYCm4CIQDQtxb4ggEFf6YRHxdjfhzitq7+YkEbgVI2
SmvJTmJu1Q==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('machine-bad-pcrs', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICsTCCAZmgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYDVQQDDBBtYWNoaW5lLWJhZC1wY3JzMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAz9cLYO5P3W8AqrDWEQ2FJWRlXR5U7yzcdbIi4RiSHpStgcfFoGsMTh4fhdHIbOaZW9dodoCbG2O+8VvOyKjF0hgrawewHwAK3sLlBcZDV+fDyOH3K3gCEZJYqN5LDMlRf37fidtnEqRl80MLg0EL4+cJjKBy2Skc0dYN51/rOTj6s9PdXxeJf0vKA4x5X32KgeQlhnKgKFN5QzFuPvQLSuvh+9FXOeahhk1mfk1IJ+9tzbfluUi/Ex4+6yXOK0sqa2y4YDvtDHxlkjEMHIdA0v08FfGvjPbV0v+4ANLyqmQ3zAFSjMunOEt4fGBFK5/HiL9xatuV3WgzwWMP8GRTTwIDAQABMA0GCSqGSIb3DQEBCwUAA4IBAQBfYLGO1uEr5agO3O7erbzXOpPhZlTmlg5CI9Y0MLvP3K76/mk5VZfeJmCvUNvntu3Bgi4H6CGYK6kTYIXOKZL72T9PAItkjPfxF//NqVWORu8u9MCToIifCGTizS7kd70uGvMNLMN6AjljQqe0rUebgBmLuIaHZJbBZ1DGcK8kQRLzeHafZpVRaox8st4udeYxxwlB1rA38GB6cAiXBfpCJREF8injmu9LWmkJQ+y9aw72KZ7auCunwAxG/pXGiSUMH2essPapoYVgWohdOfMPzttabK1R5/mFkQ9ZfOAAANHA33lJpw3RBMS9uNo68LSiTSsgx6mtY3/xGa0Bz5l0', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDYsVcZkpN9XmYK3yCz2cIAEFqvEG2VNdpMGSEh0gSDm4juFDm1oa/f2P9KvBtTZnahqVv0xjf4oH3/BaL0p/tmp1nmBFeHTWIpcKA+D294TdYkz1OMgB3azj1l1kcZlgu8MWyamszQH9ktMZDmvHKsDgADHXUEqcnYDp0bdwrnwduBSxg+ujmdKLspupLbdznufHnWbiT1Xs1D87JV4/z4NS8kjUD1wRb6sUoYZhQdzAzb5ldPvf7kP29xRTLZQ++EyiljjN01C+Ck14sU38h68bGdh+hkplleKnscaYUKgnXMfwEhgEoPFdwcz72HAAmwZO+KaCmJvXrC4T9uy7Wl', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAz9cLYO5P3W8AqrDWEQ2FJWRlXR5U7yzcdbIi4RiSHpStgcfFoGsMTh4fhdHIbOaZW9dodoCbG2O+8VvOyKjF0hgrawewHwAK3sLlBcZDV+fDyOH3K3gCEZJYqN5LDMlRf37fidtnEqRl80MLg0EL4+cJjKBy2Skc0dYN51/rOTj6s9PdXxeJf0vKA4x5X32KgeQlhnKgKFN5QzFuPvQLSuvh+9FXOeahhk1mfk1IJ+9tzbfluUi/Ex4+6yXOK0sqa2y4YDvtDHxlkjEMHIdA0v08FfGvjPbV0v+4ANLyqmQ3zAFSjMunOEt4fGBFK5/HiL9xatuV3WgzwWMP8GRTTw==', '192.0.2.101', 9002, '-----BEGIN CERTIFICATE-----
MIIBITCByaADAgECAgEHMAoGCCqGSM49BAMCMBsxGTAXBgNVBAMMEG1hY2hpbmUt
YmFkLXBjcnMwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYD
VQQDDBBtYWNoaW5lLWJhZC1wY3JzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
lbGMV0/sCJfUH67UtYZhvYjelDQh3WJ9yTXN/+xqHtmXKVk+DQUH3lZN5CCOj2B/
ts8UJVAXI2aU4uegJV8QwjAKBggqhkjOPQQDAgNHADBEAiAZUTrK/kaJa+N9kHEL
xEhjV5jv0SnvSksCPwdUB90ilgIgNGvmeeEjK3NiH6AT0NC5iLBQ2OjswBZYP4UD
0IkvAxA=
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('a machine', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICqjCCAZKgAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAUMRIwEAYDVQQDDAlhIG1hY2hpbmUwggEiMA0GCSqGSIb3DQEBAQUAA4IBDwAwggEKAoIBAQDi33Lo2j+9c7Fv3tJdoxaswoVtwOzLNUvwr2myfqlp9tWdlwYDJ+ge3JAByf9vHea94GR7Nez2ucX/MqvudU9KA+tyU9C2M559s8+ZyUSdkp++S4R+GtAFrozfd0UIKL6WCJXKiMeRaYrQopjgsoL1SX88h98LX1M9dWIMY02CtUvvBigH2SAbqXObwK1a7IIrNcs/EWlAUp9+7TeveU3oy3+DNXbMPWqtFfNoEKC52Qikye+/UJ19s4Ilzdh7akBsWupPkLu6gd0nkA0EdbiGgkwcjZQQR9aNYUKuKfWQVZOB+CZCMj8WzhmEDpKTXKunuC3B6tX6mhJ4lhkemvzjAgMBAAEwDQYJKoZIhvcNAQELBQADggEBAJJFu4Sh8DEMRqndgdO69wf3yUQh5apmYstQGNe/NvK06Gq4DSKjtFMID+pd/qfNneGU9BGm/XNXS2rYUy1vxmrCtPvvid3P2EgnzutpG1Rmj1QB4eUri3IgaIrf0fXl0vZ9H0Xrf5J8vPdvdCPT+eM1BPCk5WaQwnp79flisj7+LgQGwj3foUvpOTW8x42dunm7rpHozGoLs2y0l6VSsPcr//ehTrEzafdVfiG/7kSxQ1vYH2bzFX3eIiAC3na/9JnufNKcIrmElHzD+XmxMeXUb8AgcKb3x0KhBdQcOowg2OD8umd/nmGENFeNlkqyamxvKJAq+HMAezfgL2oVP9g=', false, true, '{}', 2, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDOm6GmszA4eHdIKPZbe1TcoFg/LZ6HKIEoy+770f/luinUNiWy/oK262vrAN31RSajWlJu5jxYYv+g9wEmcXC1dQXT90gQ0VjU1oPIuN4XXM9W3AroeJtPzMoAkaZT3+zOy0i1NyJoFojitbxe/+O0b5dJ3cyOVQvJhMI++wNWVVngilSrxoxqx1mfkN92p54Kjx60Nrccp+EVA2qsNGRXrbs0Bl9g/LfT2REq8Vuqo9PXnfj6oDdyVdGomfpItuvx6i35CQojQE/UFfK3Xn4ITwRL3SfxBvgnUohFpxcEfnmOK7bnlfa3rnpkSdbQ7zierEVu6vmz1RaxI3Ol2Ehh', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEA4t9y6No/vXOxb97SXaMWrMKFbcDsyzVL8K9psn6pafbVnZcGAyfoHtyQAcn/bx3mveBkezXs9rnF/zKr7nVPSgPrclPQtjOefbPPmclEnZKfvkuEfhrQBa6M33dFCCi+lgiVyojHkWmK0KKY4LKC9Ul/PIffC19TPXViDGNNgrVL7wYoB9kgG6lzm8CtWuyCKzXLPxFpQFKffu03r3lN6Mt/gzV2zD1qrRXzaBCgudkIpMnvv1CdfbOCJc3Ye2pAbFrqT5C7uoHdJ5ANBHW4hoJMHI2UEEfWjWFCrin1kFWTgfgmQjI/Fs4ZhA6Sk1yrp7gtwerV+poSeJYZHpr84w==', '192.0.2.46', 9002, '-----BEGIN CERTIFICATE-----
MIIBFDCBu6ADAgECAgEHMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCWEgbWFjaGlu
ZTAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBQxEjAQBgNVBAMMCWEg
bWFjaGluZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGPUAiAvWrOnGWvYp8dd
gsws+M+P34JKaP/2YutUXsBvTCJSPP69LGipWsI/nvyugnPB4rJqk2TcVWnIIM5h
u3cwCgYIKoZIzj0EAwIDSAAwRQIhAPVxTR1blDSMNhBza8qUis/s3n7QZV6nsV75
qkhtPiFaAiATU/NlN4GjRDvIIqzESFxbzrI2Vs+6KspRURCt5odizQ==
-----END CERTIFICATE-----
', NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('not-activated', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', NULL, false, false, '{}', 1, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCv71JM08HiVmRBMrAmlzcku8hmS27OCESw62YTJVg8O04fitVHi2Sg368HRVbTEJqW5m3nFoEKlVs0aJH62wmmG4zhzq18mR/8EpiHm6DMAGjdyb20x4SvB4oN0JibHZ4Ri5wbdWdxU+tUsWyHmRcKGxenI+BmjJeV/R1x8W+WlT0hG7Mi7kOiweV2tGIQVIIN14/eza3WrXSTNyuu493uz6/Ys4f5dp4jEnxcLWH7sdy9Mqo63mLBhxSQKBxHZo2qEBeXG+dgWBi6oMJO85CWfJQ61zvfmEib/qEq9ho/V3cN5OUTpjMqxvrT+FSpgZ2pCatGZN5nSv7KU9lP4zlN', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAiTC7/fOGhWyl04oHvw14/n3JIPQmQbqGqAML90dA9zEpcWEDsTaN9Zj7Z4YjOXARbvHjLlfw+E3Bh3BEvKi2U1/c+rD32lCMCmd/ZjePK1536GmUcjyJs0DWt3+1OZN9i20GKeyi70YXI43wXH8Aj2HmV0j5vwQ5r7vXhF8wTpS0q+iOhjpl7rEmD9XTMN6CDajxc3+XR2hPlCzWtZPEBN+3fMq0ZvXOOfAX9RJV4ZbPED/h5hKC454+3MczKz+EtQkS4X2BOMbJVgtAsZB/sOdcXymNu2kzRafuanXiNt3md5I/NYDROZ/ZXdJZCMYWc2Vn/Ti5TSLmn/Z4uzix3Q==', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('foreign-certificate', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', 'MIICrjCCAZagAwIBAgIBBzANBgkqhkiG9w0BAQsFADAdMRswGQYDVQQDDBJtYWRlLXVwIFRQTSB2ZW5kb3IwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAYMRYwFAYDVQQDDA1ub3QtYWN0aXZhdGVkMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAiTC7/fOGhWyl04oHvw14/n3JIPQmQbqGqAML90dA9zEpcWEDsTaN9Zj7Z4YjOXARbvHjLlfw+E3Bh3BEvKi2U1/c+rD32lCMCmd/ZjePK1536GmUcjyJs0DWt3+1OZN9i20GKeyi70YXI43wXH8Aj2HmV0j5vwQ5r7vXhF8wTpS0q+iOhjpl7rEmD9XTMN6CDajxc3+XR2hPlCzWtZPEBN+3fMq0ZvXOOfAX9RJV4ZbPED/h5hKC454+3MczKz+EtQkS4X2BOMbJVgtAsZB/sOdcXymNu2kzRafuanXiNt3md5I/NYDROZ/ZXdJZCMYWc2Vn/Ti5TSLmn/Z4uzix3QIDAQABMA0GCSqGSIb3DQEBCwUAA4IBAQAVwYd15hmy376Mq2EGoQzOromBLFmUER7tL/K3UaFegzXopyv4WdcECOD9hrGRKfMAa1Evoa/vDdp7shRVpdwR6oZTybtF9Dzzei1TBg6wvsd9wWIhHMk2zzPS0YiEVewfCLz1iYQK5m29FLSxJMV/5ZHu/jX125bjJ4cmEPTAlFwKx/H8PHH+La7KLPriD8HFFgtg+y0/zICdKTlbPX3EnwwR9hsZlwMnWnRhlSsWKuPMSzTI09OfWJm4611SN+bwapd4nR+hEKArpvKQIedIMENB2WC7xBzu+FlC8Rln5UaU6kXMHZ5lmSClpUve8b+itUjmmyobqu5GdyoUsDld', false, true, '{}', 1, 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDBhgmbEoR55OdfOgBNnLUxbeEkOVpF2QNMV5kvFh3+gUtN9V2GC5KLpbWE4NJ4OOaZe4oJ1XkarJX070ruzppwFwLCP/iGPGyHen2D/pltucl3rysurHWqQ+tHtnkEujFnuFhh6q4ZtI0bo19xVtilq/iZeHZDTHAsZY+TNQfcbXGjQDv0mtNIpj1KUws4JU6CO0Jj+lsvcH+cr/2Yib2jMf1DUw4vNHOnJK/pVb1w3iGnZN4EIUK+uf3jAlkM4PjK51FRyuW1MUU8NQPODEVhRfjBNsur/vpqfubWvqGy+GGguBsqDKud62v1kPA6wFON5RBRmnTV4h7DmHuyHl/H', 'AToAAQALAAMAsgAgg3GXZ0SEs/gakMyNRqXXJP1S124GUgtk8qHaGzMUaaoABgCAAEMAEAgAAAAAAAEAlFPahU5Di8BfsDale2bwA7UNGDd4ZBlsyTH+RIa0h2D5e2+lNBU2+c5AIbcUMzIR/1yxSmVe6jGrM2MGQVsyZeyEdzJpLDFPE7KVN0MQWjm2b1rGB5cOzUforuWK0Dv1duUISSxc0gAhUiANp52fM8PlTGPnYImS3S3tcm4NOgH3Z6/oTnhjgUVNu+HkUye+xhLVC0aWojCeIByaOThYTfY96qjJpKE0c6Wg9PYMt5UZvsVwja1sh6GtrdF7SWt9tfLmJeImRe8n+X9Ka0r68TJMAnMzMVNgtFrWI8g3dEJmKQAg7Ptvvcn6jl6Gxkax7Re87VPRoCygH8Btg7211w==', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO public.registrarmain VALUES ('without-keys', 'S0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0tLS0s=', NULL, false, true, '{}', 1, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);


--
-- Data for Name: sessions; Type: TABLE DATA; Schema: public; Owner: -
--



--
-- Data for Name: verifiermain; Type: TABLE DATA; Schema: public; Owner: -
--

INSERT INTO public.verifiermain VALUES ('machine-pull', '7oU2y9RT7X1+NjJG9/wAP2HkarMsd48Zwp11c2RNJyw=', '192.0.2.29', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '-----BEGIN PRIVATE KEY-----
MIIEvwIBADANBgkqhkiG9w0BAQEFAASCBKkwggSlAgEAAoIBAQDRVCztudDU6nf0
sGxrH+WPhCCPTj91sDRniFk8kRa4WwR2O5ZqhZDSUouatJLoQeI+ISj2KiVjgwcb
jV0zts8Cx+fFgALWFNbLb8Tl8jeKL1hLqPePF1/dqdpZjJP64bI3jiDstkw1ckYq
Z79RwDS0PKwBYdyUfgliEY5KQqRe7e8gqPrCYXuqsptGpn8+SAjPm5jojMKiznEO
34qwbeRlIPfZ3J1sK2wEXtDNbpS8lADJZttgD5Vqkk4Ee/MRsOQPJp4yIoOB1z5S
X4okr2tCjq9ak21jDs6iAdgTN2Klc/OfKRUX5JyNiN5LBlnuLEWG2X6d7/Qn9U7b
c3y0nzlbAgMBAAECggEAAbkjK4vRi8coWKPRKKqZDa7lQ7i9rf7W15lYPrblDHx3
U2/XI6ZY1Fpomsvsv6u3LJLCTxB2wVR1TQVDZKcXGitCHa6Zl2CRihgv80KksWcF
X44TB6MGH4GD8iPFnhWYjXuGitxPUUtRB41WFlqyNF+hfNts4O4Orrd9R+A3kS55
bUtE+lvTC+ChP7VWfYTovfUPLCjK0blYFx2oIzHTcZDqapsWJVZb3h8D8nmwqshh
KvvMqI29MV76ykPajnnM19g65rts10bEVfLGeUbdUy1SjHyMLAhHqP6RP5Ls7+EX
1290565geCSjJWV43+HgcFj+8OhAKI8lv9NzU6UwEQKBgQD2slyVTrHQkprzNF20
f95XHrDCv7nTNHvDaTswST2O5lSBp16/WfuAeoJweLpwc+Qfpp0HnE3toZnB0UVg
ne93D+dMk5axrzzuDOhpOZs0Ov1hCO6LDIDZg3HUv4qF2/z1IM7HG/fymKddLo/l
TJBGYV+Y/TDtS3HaarENVp/nsQKBgQDZOQ9K0X8TZCsNODRLKuMLrL2yOt9IZP4Q
1t/IzEcLhb7yRbVEIKhZZdpyISdhglF5hQc1lYpB8x7oI7kl3pbONB7vabhjo8/h
XsyT9otFAgpv3N45nFSv8o/l1whwN0zlF/QfapbxXILwXl0thffmXX/tvZm/EBce
kO5+CBqAywKBgQCGa72i5ZRiL+AacQg2GA6Qrfpmw41/lfNyEN7deqr+OGcHlqk7
3s35vcdhfYcpSxycWm7p/LNBrnJXd64z7RrUZ2gDA9By1SeAFqx02ZzGIvZ5byJ7
xb5XxxW5dP0H30zATLYfLBA4shFP5tUlfkiG8PvkIuIMCrXo64W53N+YoQKBgQCW
kyQTk/cHhRcGueAd/uOV8y8nvgGLGF65Y4mKknfo99Qt8r49NHoeRilPlcXLpN8/
YkRmE3vcTWAuQJ0WMB7PX3fWM62afDIcom8jXfKaali7xBnTS5e0w2qWQyHZT6wg
3iLeKC/rrVoirvbeGJCIAmYscZKCy++Kw6JegNWGUwKBgQCxnRfMv7lByn+/qQMf
KxhYgErFm3TXLe9qgSuKvPqB7P16aTXf9pqzhXpvScdTjO57pdq9UBZcatfpFymB
r31wlqbFDKQn2NM0lRbK7tO8fJMerwQWq56hXp1r5nJhER7OwzrmMxPfaJ2Qr+yw
+N7X3MtuynwuP6lGdBFbYNTvew==
-----END PRIVATE KEY-----
', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCahozrjk4gUwMqMehboMaeXKYqi9ST7AKrzBWySm7jhuhN2cRajQaAGCB9LxuX5HSBM2+PCC2mCRb/oCv5DxAlyYpJfGlX7m407KyA5jWFI3VRENzqnTZnSvC1tZVefB8Bv1bVCo1Qz9ZUznMW7DHrfSnGaJ85FJWVraEfJsoQPoA+LRU/05xG4kC5t7gapbLYJIxecCcI79VIkgFAUSRvIGhQ1p/glstFoL73k8dRbf6pJdnOB3Rl0e1fDyM5aiArm9EUGVm0rR6uTU3abzPSqe3r2+72dj4Jcb6fjampn5C2TomyzvO6dXxmrMhcli+dsRVd/jexb+/MRCh+ezVx', '-----BEGIN CERTIFICATE-----
MIIBGjCBwaADAgECAgEHMAoGCCqGSM49BAMCMBcxFTATBgNVBAMMDG1hY2hpbmUt
cHVsbDAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBcxFTATBgNVBAMM
DG1hY2hpbmUtcHVsbDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABCOpCOHSm7nr
rzKSGSMRBqHhXSZtgdzF43knep/qhK+Puz+NVot6j3GTxoENyL0XJ7LzlOWV0ZP3
SCGDyEZP75AwCgYIKoZIzj0EAwIDSAAwRQIhAOn7qCmGrz3lGbpk8gFxKVWO3KvZ
vyTL+VGQlSiEuYS9AiAbSQlqdnC1ZIwKHts+4hkz1lywjqjcF15eUQNfoeJoaQ==
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-signed', 'CSXgfEfQH5rKN3XekGyRcMVBy6g93MlS8CFjgjZT3l0=', '192.0.2.26', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDiIzB8Yosy0JDuG7yDdZvuMY2odgxlo1VsPcupKK5XOBKnaAAZo2P+QDfZAPo/r7p1Uxd1GQ3mcPkwO3PJ1xpoPG7UovSiRO9Lxcqyh7BRgvWJRDzdrFsD1oobl5NqjqDwTCe1X0QTaYuUz+E6YRmp1ZZ+7yItL86jMM+eB39zO6dmqXz4OD1bW1ADct3S4rFu+kXjipjsj8fZ2iGqqIHLZ5rlNjzpgHFDOaqJaRw2oJu6bhDjh0MM7G1nPQlCWBfbu20WDx9bTtnhppx49OusnCirPYTo7pJC1gB7pkOooSDvVKHv0Qg31NxZFDvm/9nK8sTKbvUJ+rxdgOHwy5Sr', '-----BEGIN CERTIFICATE-----
MIIBHzCBxaADAgECAgEHMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMMDm1hY2hpbmUt
c2lnbmVkMB4XDTI2MDEwMTAwMDAwMFoXDTQ2MDEwMTAwMDAwMFowGTEXMBUGA1UE
AwwObWFjaGluZS1zaWduZWQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARMa5CA
T66HDXtykf59bV7GXrOpIXPSj44xTygprKuZoY9ZX73GiuSIFgSB29VFhLfR2xoB
v9YSx0i81kAWvPYOMAoGCCqGSM49BAMCA0kAMEYCIQCQWX46iP/eQnvLHweYZ4As
iXNzSPQFchzcDxL1f8Kb3gIhAORJVc9QcDxX+AAq2IKmBeCULn8VepFlYYAmHHY4
vP85
-----END CERTIFICATE-----
', 17, 2, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-failed', '1qDCoRzVmX5i+GJ45McUNNLLfBMBkUQSjmItDxtbByI=', '192.0.2.115', 9002, 9, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, 6, 'ima.validation.ima-ng.not_in_allowlist', '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCXFnDtbIFVJvMX0THzNUnEy3L2Rx1b///AD/Xd/+uWLD6fuL5CK4A7F26Kp6jn8TSBPjGebGj3BJ+5jNfyX80jNyBplqc3U/CGX3bCmDOmpk2ROJAecB3Hqvwq5JvnGccaQMBXaLrq8Zy3oLcl9mxel/T54AksK4VWZEMSFo8UoPYfInqmBfA13gfugK2eCdVRGP45AJH2nNVJccj/rmYon64HMJl9Ssz4C/6Kg+MEaViUfQ/A0ubW2AUrZ26pGhMRtNBCm83WfolwuTijscQmxvGgH+BZHilqd3l9C6McbPIkvqNJdLYZGW8EamF1vPklGO+a9jlbhVnZL5oUBdJr', '-----BEGIN CERTIFICATE-----
MIIBHTCBxaADAgECAgEHMAoGCCqGSM49BAMCMBkxFzAVBgNVBAMMDm1hY2hpbmUt
ZmFpbGVkMB4XDTI2MDEwMTAwMDAwMFoXDTQ2MDEwMTAwMDAwMFowGTEXMBUGA1UE
AwwObWFjaGluZS1mYWlsZWQwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAASjx1VX
NzrtLb8v+xMsDMnMWSZ0aICpTZOJLcCkpFxvD8rIfoAFmJ/VWN+P587Nus0HCaQe
QGnMowuDkl9G07GnMAoGCCqGSM49BAMCA0cAMEQCIC5JthYFiVust7Eie5kMUjHR
a8tml+tO9AvHW28uALlZAiBElhxGYXPVIvcdXffMXrlEjfFYdT24zXpxS4xkbZf1
RA==
-----END CERTIFICATE-----
', 4, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225000, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-unreachable', 'Z30pLLwIekOa+hLbP9qJjNmgn5WeD9Cv25rg6wIKbxE=', '192.0.2.87', 9002, 7, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, 'internal.verifier.not_reachable', '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCvLTppyCN8k8Es4nBfpHcwcKJPxnA/Z55qb3y3km5R7zlaum+7M6/G4iWNELfiMHEyOJ46ZAhqyEokwSl+87Pk6oaqmUgPBfqRPRl9l/wGAwJFnH9q5muqQ47j+gaqut6qe13Sbv6/plmichQTD1DetiXBgie2rAiyn9+PvA4kRdYX7XVnASOJgkcROgd6hq8FIUoJYQwPQO9U0izwvLOGigvo7pQMLzqbzfW6xTubQuevppm067+QXnzzj2Z7iMeCQzkxbfztkWQ0pfNzP51a7ZJkxzbVC4jaZSrGmJA3TUwKyD1QO05JFIH6nXfSY+LjGstuTvuIdMElIfW09JBl', '-----BEGIN CERTIFICATE-----
MIIBJzCBz6ADAgECAgEHMAoGCCqGSM49BAMCMB4xHDAaBgNVBAMME21hY2hpbmUt
dW5yZWFjaGFibGUwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRww
GgYDVQQDDBNtYWNoaW5lLXVucmVhY2hhYmxlMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAEoS0ut6vNW3uNQaukr16BSteG9CTuRITALouuZNb35V0qEZ8IIq57PtKP
5M4TFQNy15sGO1ljONV95pvQcFwcTDAKBggqhkjOPQQDAgNHADBEAiAh7yMyAoJI
zZW39/dweJPqmLFBhGg/wvEGuoJQcAHioQIgY9fn3RygBjQDk9zKDweDqGMVAHs8
zf1WGNVKaaaH850=
-----END CERTIFICATE-----
', 4, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225000, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-stopped', 'nnGZR6/ttYU3m7f/bwE9a1F/U8wJjaQ0w3Gg50kDDac=', '192.0.2.93', 9002, 10, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQC80OrgqimdnANZNCqVDkvQFT0aBb8/B2IHu2u3T2HBmfibNadzE2UAHYsNecqdvQdzAtMmNmvm0eDmbm6Hkfz3jkTp1gF7JrQRhktg9lqEpiQ/7yW7ecZjNn1vzxK/d8IVdvU8Oo6FSgUtvxH99J9wYiuaVZAAegVmLJYUYpysDgBiXT8Q6aQv8scpW796ZxrDPTzKqYNvdfaeprlybslsaQdIOgDF35SKvtp5Lm9ZcSLjlhmtDUN5jLob9lXwy79sWHNxGKnIUFgljzweYazjqjFGvAqYnhseDzZ1q1hkSRoAtWm/ihMrFxnFcoRt0KkGF6ovDEnWPERJeMY5Ue07', '-----BEGIN CERTIFICATE-----
MIIBIDCBx6ADAgECAgEHMAoGCCqGSM49BAMCMBoxGDAWBgNVBAMMD21hY2hpbmUt
c3RvcHBlZDAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBoxGDAWBgNV
BAMMD21hY2hpbmUtc3RvcHBlZDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABIDZ
aT0tNU+4cpdmjZUopKNINeu1iEvfwn+0nxkcx7HXTtlJPfJ0KHamYOWzdQxQmQtz
wW5hK4wY1wxp2tQPNXMwCgYIKoZIzj0EAwIDSAAwRQIhALzoNUhbdDiQtrD4unX3
3elLuLa4mSlSgQQI+bUawQzdAiAhiDY3rjXjjxXBfPrSuSzXJ+5TRTdnYUOXQv96
YTNPeg==
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-leaving', 'F2UH4zDHn9ck2PeNTNdmdrpixWNXHHFbja7xexa8m3k=', '192.0.2.81', 9002, 8, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCqjRSpOz3VtsRtteLMR334e54997Nbnap+5m9ZDvl+VoZN9+JIAzj8cOyVyoHHvrdn68oCCbjBsLa8ETDDTc5qyW48L/KKLX5Zn6LM9madvtl9a354xMy+wtprkDdHcDeMHj+os+Mw8bnLS9MPZBk8WpN9CqH6Xwpk2GcghE2YxnqarOHID1LXwvPlAr7pEEB/aMQ6RksKUY8mE/8JDRc2I8YKdis5ZvYXgrh+gqVJQNbRXaZdSdHEVYxNp9OIXSJPUhEgOE0/FOSSCp+kmiXASQ2dYzpF37RkNVfOqvGl0q28CYa3boAjKX+6S8ozF4Jh1OoJFEp5EApvGn99L/ch', '-----BEGIN CERTIFICATE-----
MIIBIDCBx6ADAgECAgEHMAoGCCqGSM49BAMCMBoxGDAWBgNVBAMMD21hY2hpbmUt
bGVhdmluZzAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBoxGDAWBgNV
BAMMD21hY2hpbmUtbGVhdmluZzBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOcO
UfhHQ8hv4+NRosR2Kgzvn6WBe4HYfVinxg+cZ/cESMlYWftZt8SAhbbcj9HSHXnr
EMS6HXo514T9qQrfxSUwCgYIKoZIzj0EAwIDSAAwRQIhAOhoAxu9xuWKIX6BH1tv
G2rwliGSTR1I6kwpHIkb724PAiANsFUBnE026Qd3yWalR6BhTjbzyRH3kK0iVNDY
MoBYRg==
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-push', 'jBqsCDSgzDuJLwuNGYNHRucvvhXpuPIPWCSbvire3N8=', NULL, NULL, NULL, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQD4l7lWbHhXciGY129rvOTD0m0czp+yEky34XKjMM1fr++piK+bdW3Dswdttf+w4tkC95WO4MfKqNvYh+RcBnZIy0PxKOE8yF6wKeEev2XsuWlQVg/K/51XYcFVjV/PaFj+4vnRtbT7HVYhsHpnxX/IcOAYWVjxDk0pkFQCzh3R/pUFPWvL06RJwnxzrTkEWFVBRRZ2a8Yt/q/zXLuG/CZNS7MneeS1EaPeislCCr1xrfb3Jd1jIAifFhP0WbbdErdvVhrFO9heaBKztBHJs9aI0JUJboDsjLHFn1ynoK6yw15u4aCZiOIa7vusu5iocECFKZhqc71HnHioXO4UaqrZ', '-----BEGIN CERTIFICATE-----
MIIBGjCBwaADAgECAgEHMAoGCCqGSM49BAMCMBcxFTATBgNVBAMMDG1hY2hpbmUt
cHVzaDAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBcxFTATBgNVBAMM
DG1hY2hpbmUtcHVzaDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABKssSvoRGrXa
FK8j6Q0GW3Y+tVGC0bH8CP0JrHzBats537vWd1TF0e5Y7C4xpgsn/4qfp2Nu/oVo
+GeP7Nxoq6owCgYIKoZIzj0EAwIDSAAwRQIhAIRFtpZZe40ZnAljEpNlC1EG90bT
kqXl3RNpxdkeu7RoAiBrpZKWid8R5fPDaU6TOCG3aNaDq/EaGrcSHGo0oedevg==
-----END CERTIFICATE-----
', 9, 3, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, NULL, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-push-failed', 'QdjfPtaw4DQ/BLfqWuRuIF6hYz9YB8l9+9x0mXfhGv0=', NULL, NULL, NULL, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDNTatac56tTv3S7j8o5H7TD6mK3DRD4a++mcp6ygum6xeCToCaukCVeLtYYP30adjGC2SWEXVtye7dyn3tU0bDyoWMmW7wNR96MM8Sg3ESr6bJqhFG4PJdMODUPXiBRxgL/H2tOU3LEk60vKzP+ZSWlJ635WLhjo3j9I37RuipveHDkbStI/f+8l7Su2WWNe+j4GwNUHEI3ItVKkX35sgeTSos7mfsI8jaIsg9cABq+Puyd5/O0Nw3T0syn/X3FEnfgq1OeuevuDrmAMBjfZhu5NJtCB9sJ0DHjDMHHvy2VfCa7jkorH35JnKHMvt2syiotvIX7voDWXtHojeyqmm9', '-----BEGIN CERTIFICATE-----
MIIBJzCBz6ADAgECAgEHMAoGCCqGSM49BAMCMB4xHDAaBgNVBAMME21hY2hpbmUt
cHVzaC1mYWlsZWQwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRww
GgYDVQQDDBNtYWNoaW5lLXB1c2gtZmFpbGVkMFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAERFUacztzhzkDvXqHPFDGIRKtk3+hxZ4u8GOTKVbVYrj5FEdV0F5qvYwp
GE+klfPuWT79nWis4cbs/f3PbpSmSDAKBggqhkjOPQQDAgNHADBEAiAl/PyU38g4
smBYYCgX2+e/rqCUQbiCaOjLx3Roc0IXewIgYu3u4rTO5TtC/6oXj6iuHQVJZyGL
9qD0aro4ZpHA5GE=
-----END CERTIFICATE-----
', 9, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, NULL, false, 3);
INSERT INTO public.verifiermain VALUES ('machine-push-silent', '+tVxmP/t1TdBjCikrv8B+YsKqnaVKV2NsiKvu5lLsJM=', NULL, NULL, NULL, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCy0OsijQD3W/bE9FsTimsAZSHHQRFg9kjBbkFo//AezQMzJqURbF4dA8l+YlAalIdxomLBjSCNh+Jh6ebnwWOApxM235WP0UjPigrRSnTeCntKrUDwTwUKprhCA1bA5o76Nga+lc/Mcuvtpdp/r0cWt1VgWsffcg0dEo586BQLE4lcWHFxOcwdFSYiDZHkK6LLhzCa+N+TZFEd0amJ1+6GV3xSXLr5vPewHM/hFpFa9p8B9NM7f74cH3GFskmgNcgM+WQmSCjrjynfHe3KKuMluGqShiGmjRsDlS1VeGUMafgzQmoyJEHm2XV383PwJL0i1YvhZsiFYFkzeQXpO5+f', '-----BEGIN CERTIFICATE-----
MIIBKDCBz6ADAgECAgEHMAoGCCqGSM49BAMCMB4xHDAaBgNVBAMME21hY2hpbmUt
cHVzaC1zaWxlbnQwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAeMRww
GgYDVQQDDBNtYWNoaW5lLXB1c2gtc2lsZW50MFkwEwYHKoZIzj0CAQYIKoZIzj0D
AQcDQgAElpuG4LqrBy4toiv6u3Zqs9pTV73aWzRkBZXbzbgNGkjXwvNKX2eMZW2k
7St2pzjdGGBuTA2rGNyDA3D6Q/ZR6jAKBggqhkjOPQQDAgNIADBFAiEAqUJe426S
Hr7CqLg2GjHsRDshZzGOYrh7fKSti4oDDkECIAJgDVL4C4xlR2eIEXkIBCQLQ6ud
tzvUj3dDiKhERuQT
-----END CERTIFICATE-----
', 9, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, NULL, false, 0);
INSERT INTO public.verifiermain VALUES ('machine-broken-policy', 'vhJjz3uXo8+iA3P77e+t++fJV0RsOq00sdrjblrOM6w=', '192.0.2.87', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQC1f714l63HUUSIaO4q9uvEgaW6o3QcK530OLwcNgHnKCh7Z6Uplmww5YUzmxPLNoaaTRt96WC9yhf2K2+duSl8Fdi9j/A0JzvmdQl+vVNJB3YbEa+wiF29W5hDsgPBshbD6eu30y803z93LvjdWm8SheBfke3ZuKlO6p4WpvB7szEz05DP2KjHMsXB+bbWYN75GCHz0hO1lA9mq3oZ86TIaGUDRN8AWCvRX2K/UUj1w2xFMFNshSTmlvbn21mguHPCptjh4lwoWDSCUT3+R0CvlfZHlDgGTxZzWep1/Td9Iez2Pknjh85bjU9iraPtDo92vVE3xWd4Ys6rEBOhQmI/', '-----BEGIN CERTIFICATE-----
MIIBLDCB06ADAgECAgEHMAoGCCqGSM49BAMCMCAxHjAcBgNVBAMMFW1hY2hpbmUt
YnJva2VuLXBvbGljeTAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMCAx
HjAcBgNVBAMMFW1hY2hpbmUtYnJva2VuLXBvbGljeTBZMBMGByqGSM49AgEGCCqG
SM49AwEHA0IABJWiR7lDwT9wxzTJFH6YTVCcN8AbiGHq0pbRvC31SXEhQBjkyT6F
dxI4dd+vTY+i0c2tDZQ3qV8W5Mh1qBabKfAwCgYIKoZIzj0EAwIDSAAwRQIgPpHR
9OTNL7st15T8T28QdefOFSMUBFJ0LpsNSsIjtDkCIQCV/v0648v/0ibhGGKK3H86
mB89LyjUOYK3Mk8drWGUzw==
-----END CERTIFICATE-----
', 17, 4, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-refstate', 'enw7kSIv91xT2ZpFbQGSMFFgHc+A7aRm/hUEpfwEVEY=', '192.0.2.42', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCi7hWZ2lqOIVVlJWD2iK8KifzFLbBpgmga1/iL87Qkc9aAG2CDfMQRyPoWrxBzFHS3phdUlFfYd/cg6dJl+ukYYRgWTS32hx4Ti92dELl0Y3+yso4ORZZ7s8MwFm24LuKSU490hn6TOU4yfq27hyz9EP5kACpRfrVvHGB8AipZjZn7rT1FTJKk0yw3l777ChcLhfcL4AxTPX24n0hjc+Xek2UATP8+5M9KDBXOeun9qXQEaXXJ1hiEhjs61JuhENPzHjbLm3lJuySY7HoUwNfUwR4Dmkm/fhRZ6gYCL/MoE2bkQFvrza3ehavCX7SJAQVYr4c8fAzhczG8xQ030sk3', '-----BEGIN CERTIFICATE-----
MIIBITCByaADAgECAgEHMAoGCCqGSM49BAMCMBsxGTAXBgNVBAMMEG1hY2hpbmUt
cmVmc3RhdGUwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYD
VQQDDBBtYWNoaW5lLXJlZnN0YXRlMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
eFDDBeZPdK9Mee7ioji4Mf9U5h5SIQzzXNjdzEuF54lvxJrSJFN81bMpc4kTLIZN
TLPdvLywCTx5i1+PPhB83zAKBggqhkjOPQQDAgNHADBEAiAqmUheIKf8nEO7n1c2
3K5yAEHEPBjTtoCtFlE5vKTGkwIgfep6ingh7Zrj82Q40izOiBcUmSF9/XUiQHvS
h2eZFKU=
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 2, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-without-policy', 'a6cSq5pW3gDG765YRSYxOEnPXOj1pQzu3DegjaZ1kdg=', '192.0.2.61', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQCuUIZyN70ZGDFxa59kVbaeaQSQTN9+MzQoA1JSMJ7/CJRVHgMZSUcFnfAykeUFhmShWB8E7sljOz2VrRows23GXhqqsA+Nf1V8/F9bnkRhsBOaxdrvkAPCtgprgqzpbJI5YLcQxEaxJm+8OlL425Z2XyJk1rtJ/u4hEL6lDMuB9G9NKfjjcDwzZN4yQ0ze3zNXAVu6OhThwNRsQO4GlPHRhswFIII2IUQA6d2aU1sjgvFA1soxeoY6bj0dX625f44L10bkhvNYGmabh871ln2YIp87rSOlryHoDCLX32mKRZW/WfFhMZz1vFL8QIz9tat0Jql8VIWmCE2g+TpFRRgj', '-----BEGIN CERTIFICATE-----
MIIBLjCB1aADAgECAgEHMAoGCCqGSM49BAMCMCExHzAdBgNVBAMMFm1hY2hpbmUt
d2l0aG91dC1wb2xpY3kwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAh
MR8wHQYDVQQDDBZtYWNoaW5lLXdpdGhvdXQtcG9saWN5MFkwEwYHKoZIzj0CAQYI
KoZIzj0DAQcDQgAEAZ9T1xCr9oRxQ/0HbHb80YMScQbyZyBX3wbDSD3AsL2BVFJm
6+2wXJKDj8aqg1UNo4dE0YbVE29GFz8lbZudxDAKBggqhkjOPQQDAgNIADBFAiEA
gBkzF+1Ha39nDMQnw0e1eTTQSDCEVoqbLeh0W11GDFICIFyLxSMwhnLGSHIjVvRg
sZJmcE1p/ujhmHXZhuDT6tLm
-----END CERTIFICATE-----
', 17, NULL, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-other-key', '6FwKxbk1+GXZBQxkYEwdcm0hKUfu+2NlgyojumZ3JjE=', '192.0.2.72', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQC1+laAhaRbj/s6NZhVHHinr0gFlizrO0xqaGGOmpbv5TdGsXZjU9HDCyD/DnoleKpM3J2hM4aN2u5fL3x6M6xYhI6j49ZkIIZzE0nJci0Rcytkp3Z71qXFu2cRhRc9M8vB4+3GBg2cJg6TmZzkCYSOaRjNfmTLF8pmqLvI+QeqWzVEnm7uLaGj3SalwHkatrLlvxKt05BMt6ytlmScMyUYgc0/Do3O0DU0ojqSaJfAto7fXhh8mF01a61ztLBzP3zDgLkFXAsZ/gtxDnJ07BXc0r73WrjxnvRT4mowxpRGVm527xy7JLHyE2Ati34pBwPUW+8AAXBKV6b8qmBrKvUv', '-----BEGIN CERTIFICATE-----
MIIBJDCBy6ADAgECAgEHMAoGCCqGSM49BAMCMBwxGjAYBgNVBAMMEW1hY2hpbmUt
b3RoZXIta2V5MB4XDTI2MDEwMTAwMDAwMFoXDTQ2MDEwMTAwMDAwMFowHDEaMBgG
A1UEAwwRbWFjaGluZS1vdGhlci1rZXkwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAQ/MikVrB+CovV6IaGcy9Tt56zjh6kx+6PtQSktVZDd8JqJT/BO8y/mrllQe0y3
UtuV4ETQnmiDSUONbPCcZlLYMAoGCCqGSM49BAMCA0gAMEUCIDo71gUdQE6rLtnC
3C6WSq8v6TjN5/ugowmA+H7tSMxoAiEA2srD6yeQAvtS8T5nWyMyR9VIwjdxfjjl
gNVCmRj8NP0=
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-weak-key', 'NbH8+5vP0D6olVtQ9Pr1Klo53ekUie2RZcydrf4Hecw=', '192.0.2.110', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARoAAQALAAIAcgAAAAYAgABDABAIAAAAAAABALs26+B5XXQFxgeTungDi3VSKGWjh3J3O2VQOunQh8iH7aoCHitx5BqcKO7lF8Uae+JaCGLLAHcKYhW7kRgQlKW10BKudLiaEzGhOvmKdhYGtkNsG/5qjCumVgwRRHMVjPNZKTdxj5fNgITFVRqqLSd2u+c6k+8/zIiulVZxTmkTN0ar3yTqcEzUDW0UPz2f/8NtG10GsJ5gC7DDsnpWIKb4IbGOeOGt9SSDLFUkHOLWyYBivz+JNlNz2JyXv2pxupmS6+OUj9JMh/4ZZZH6iZFlnOJlA/8xiUrtmMKDp5rr1tTZ24sW66+1fjQTexHz/8K4My7wkdnqftJ0i9orxM0=', '-----BEGIN CERTIFICATE-----
MIIBIzCByaADAgECAgEHMAoGCCqGSM49BAMCMBsxGTAXBgNVBAMMEG1hY2hpbmUt
d2Vhay1rZXkwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYD
VQQDDBBtYWNoaW5lLXdlYWsta2V5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
RuXGVSr6QVYsN3UrcARq0AMAuSKEYYmSsVsGlEk65gFZISncmmtwf//9Tj1p0Iys
Mc3BQCXMd7SQ+8WfLqZJ0zAKBggqhkjOPQQDAgNJADBGAiEA8HdNOuN1DJy87og4
ZBLW4vTD2w6fD5K594FLKsEYCm4CIQDQtxb4ggEFf6YRHxdjfhzitq7+YkEbgVI2
SmvJTmJu1Q==
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('machine-bad-pcrs', 'oCA+OCbTrvHSVJQyoKlRB/Klmfq/hMmdwYJnMUpdlM8=', '192.0.2.101', 9002, 3, '', '"{\"77\": [\"00\"], \"mask\": \"0x0\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDYsVcZkpN9XmYK3yCz2cIAEFqvEG2VNdpMGSEh0gSDm4juFDm1oa/f2P9KvBtTZnahqVv0xjf4oH3/BaL0p/tmp1nmBFeHTWIpcKA+D294TdYkz1OMgB3azj1l1kcZlgu8MWyamszQH9ktMZDmvHKsDgADHXUEqcnYDp0bdwrnwduBSxg+ujmdKLspupLbdznufHnWbiT1Xs1D87JV4/z4NS8kjUD1wRb6sUoYZhQdzAzb5ldPvf7kP29xRTLZQ++EyiljjN01C+Ck14sU38h68bGdh+hkplleKnscaYUKgnXMfwEhgEoPFdwcz72HAAmwZO+KaCmJvXrC4T9uy7Wl', '-----BEGIN CERTIFICATE-----
MIIBITCByaADAgECAgEHMAoGCCqGSM49BAMCMBsxGTAXBgNVBAMMEG1hY2hpbmUt
YmFkLXBjcnMwHhcNMjYwMTAxMDAwMDAwWhcNNDYwMTAxMDAwMDAwWjAbMRkwFwYD
VQQDDBBtYWNoaW5lLWJhZC1wY3JzMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE
lbGMV0/sCJfUH67UtYZhvYjelDQh3WJ9yTXN/+xqHtmXKVk+DQUH3lZN5CCOj2B/
ts8UJVAXI2aU4uegJV8QwjAKBggqhkjOPQQDAgNHADBEAiAZUTrK/kaJa+N9kHEL
xEhjV5jv0SnvSksCPwdUB90ilgIgNGvmeeEjK3NiH6AT0NC5iLBQ2OjswBZYP4UD
0IkvAxA=
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);
INSERT INTO public.verifiermain VALUES ('a machine', 'zzG/4mZnEUVA6cKKn3WkBu01t3rdIjNrdJfy3Fyr/lQ=', '192.0.2.46', 9002, 3, '', '"{\"22\": [\"0000000000000000000000000000000000000000000000000000000000000000\"], \"mask\": \"0x400400\"}"', '{"cert_serial": 1}', '', NULL, '["sha512", "sha384", "sha256"]', '["ecc", "rsa"]', '["ecschnorr", "rsassa"]', 'sha256', 'rsa', 'rsassa', '', 'default', '127.0.0.1', 8881, 1767220000, '[10]', '\x1717171717171717171717171717171717171717171717171717171717171717', 1234, NULL, NULL, '{}', '2.5', 'ARgAAQALAAUAcgAAABAAFAALCAAAAAAAAQDOm6GmszA4eHdIKPZbe1TcoFg/LZ6HKIEoy+770f/luinUNiWy/oK262vrAN31RSajWlJu5jxYYv+g9wEmcXC1dQXT90gQ0VjU1oPIuN4XXM9W3AroeJtPzMoAkaZT3+zOy0i1NyJoFojitbxe/+O0b5dJ3cyOVQvJhMI++wNWVVngilSrxoxqx1mfkN92p54Kjx60Nrccp+EVA2qsNGRXrbs0Bl9g/LfT2REq8Vuqo9PXnfj6oDdyVdGomfpItuvx6i35CQojQE/UFfK3Xn4ITwRL3SfxBvgnUohFpxcEfnmOK7bnlfa3rnpkSdbQ7zierEVu6vmz1RaxI3Ol2Ehh', '-----BEGIN CERTIFICATE-----
MIIBFDCBu6ADAgECAgEHMAoGCCqGSM49BAMCMBQxEjAQBgNVBAMMCWEgbWFjaGlu
ZTAeFw0yNjAxMDEwMDAwMDBaFw00NjAxMDEwMDAwMDBaMBQxEjAQBgNVBAMMCWEg
bWFjaGluZTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABGPUAiAvWrOnGWvYp8dd
gsws+M+P34JKaP/2YutUXsBvTCJSPP69LGipWsI/nvyugnPB4rJqk2TcVWnIIM5h
u3cwCgYIKoZIzj0EAwIDSAAwRQIhAPVxTR1blDSMNhBza8qUis/s3n7QZV6nsV75
qkhtPiFaAiATU/NlN4GjRDvIIqzESFxbzrI2Vs+6KspRURCt5odizQ==
-----END CERTIFICATE-----
', 17, 1, '{"clock": 1, "resetCount": 1}', 1767225600, 1767225600, 1, true, 0);


--
-- Name: allowlists_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.allowlists_id_seq', 5, true);


--
-- Name: evidence_items_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.evidence_items_id_seq', 1, false);


--
-- Name: mbpolicies_id_seq; Type: SEQUENCE SET; Schema: public; Owner: -
--

SELECT pg_catalog.setval('public.mbpolicies_id_seq', 2, true);


--
-- Name: alembic_version_cloud_verifier alembic_version_cloud_verifier_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.alembic_version_cloud_verifier
    ADD CONSTRAINT alembic_version_cloud_verifier_pkc PRIMARY KEY (version_num);


--
-- Name: alembic_version_registrar alembic_version_registrar_pkc; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.alembic_version_registrar
    ADD CONSTRAINT alembic_version_registrar_pkc PRIMARY KEY (version_num);


--
-- Name: allowlists allowlists_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.allowlists
    ADD CONSTRAINT allowlists_pkey PRIMARY KEY (id);


--
-- Name: attestations attestations_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attestations
    ADD CONSTRAINT attestations_pkey PRIMARY KEY (agent_id, index);


--
-- Name: evidence_items evidence_items_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.evidence_items
    ADD CONSTRAINT evidence_items_pkey PRIMARY KEY (id);


--
-- Name: mbpolicies mbpolicies_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.mbpolicies
    ADD CONSTRAINT mbpolicies_pkey PRIMARY KEY (id);


--
-- Name: registrarmain registrarmain_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.registrarmain
    ADD CONSTRAINT registrarmain_pkey PRIMARY KEY (agent_id);


--
-- Name: sessions sessions_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.sessions
    ADD CONSTRAINT sessions_pkey PRIMARY KEY (session_id);


--
-- Name: allowlists uniq_allowlists0name; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.allowlists
    ADD CONSTRAINT uniq_allowlists0name UNIQUE (name);


--
-- Name: mbpolicies uniq_mbpolicies_name; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.mbpolicies
    ADD CONSTRAINT uniq_mbpolicies_name UNIQUE (name);


--
-- Name: verifiermain verifiermain_pkey; Type: CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.verifiermain
    ADD CONSTRAINT verifiermain_pkey PRIMARY KEY (agent_id);


--
-- Name: ix_allowlists_checksum; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_allowlists_checksum ON public.allowlists USING btree (checksum);


--
-- Name: ix_sessions_agent_id; Type: INDEX; Schema: public; Owner: -
--

CREATE INDEX ix_sessions_agent_id ON public.sessions USING btree (agent_id);


--
-- Name: attestations attestations_agent_id_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.attestations
    ADD CONSTRAINT attestations_agent_id_fkey FOREIGN KEY (agent_id) REFERENCES public.verifiermain(agent_id);


--
-- Name: evidence_items evidence_items_agent_id_attestation_index_fkey; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.evidence_items
    ADD CONSTRAINT evidence_items_agent_id_attestation_index_fkey FOREIGN KEY (agent_id, attestation_index) REFERENCES public.attestations(agent_id, index);


--
-- Name: verifiermain fk_verifiermain_allowlists; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.verifiermain
    ADD CONSTRAINT fk_verifiermain_allowlists FOREIGN KEY (ima_policy_id) REFERENCES public.allowlists(id);


--
-- Name: verifiermain fk_verifiermain_mbpolicies; Type: FK CONSTRAINT; Schema: public; Owner: -
--

ALTER TABLE ONLY public.verifiermain
    ADD CONSTRAINT fk_verifiermain_mbpolicies FOREIGN KEY (mb_policy_id) REFERENCES public.mbpolicies(id);


--
-- PostgreSQL database dump complete
--


