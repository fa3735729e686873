-- The tables of 0.12 as Django 1.11.29 made them on PostgreSQL (`sqlmigrate affiliations 0001`).
CREATE TABLE "affiliations_partner" ("id" serial NOT NULL PRIMARY KEY, "uid" varchar(8) NOT NULL UNIQUE, "name" varchar(250) NOT NULL, "active" boolean NOT NULL);
CREATE TABLE "affiliations_subscription" ("id" serial NOT NULL PRIMARY KEY, "trigger" varchar(100) NOT NULL, "callback_url" varchar(200) NOT NULL, "partner_id" integer NOT NULL);
CREATE TABLE "affiliations_visitor" ("id" serial NOT NULL PRIMARY KEY, "referred_on" timestamp with time zone NOT NULL, "entry_point" varchar(200) NOT NULL, "successful_on" timestamp with time zone NULL, "partner_id" integer NOT NULL, "user_id" integer NOT NULL);
CREATE INDEX "affiliations_partner_uid_7842bce4_like" ON "affiliations_partner" ("uid" varchar_pattern_ops);
ALTER TABLE "affiliations_subscription" ADD CONSTRAINT "affiliations_subscri_partner_id_b871dd29_fk_affiliati" FOREIGN KEY ("partner_id") REFERENCES "affiliations_partner" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "affiliations_subscription_partner_id_b871dd29" ON "affiliations_subscription" ("partner_id");
ALTER TABLE "affiliations_visitor" ADD CONSTRAINT "affiliations_visitor_partner_id_b8c98003_fk_affiliati" FOREIGN KEY ("partner_id") REFERENCES "affiliations_partner" ("id") DEFERRABLE INITIALLY DEFERRED;
ALTER TABLE "affiliations_visitor" ADD CONSTRAINT "affiliations_visitor_user_id_c2525482_fk_auth_user_id" FOREIGN KEY ("user_id") REFERENCES "auth_user" ("id") DEFERRABLE INITIALLY DEFERRED;
CREATE INDEX "affiliations_visitor_partner_id_b8c98003" ON "affiliations_visitor" ("partner_id");
CREATE INDEX "affiliations_visitor_user_id_c2525482" ON "affiliations_visitor" ("user_id");
