-- The tables of 0.12 as Django 1.11.29 made them on MariaDB (`sqlmigrate affiliations 0001`).
CREATE TABLE `affiliations_partner` (`id` integer AUTO_INCREMENT NOT NULL PRIMARY KEY, `uid` varchar(8) NOT NULL UNIQUE, `name` varchar(250) NOT NULL, `active` bool NOT NULL);
CREATE TABLE `affiliations_subscription` (`id` integer AUTO_INCREMENT NOT NULL PRIMARY KEY, `trigger` varchar(100) NOT NULL, `callback_url` varchar(200) NOT NULL, `partner_id` integer NOT NULL);
CREATE TABLE `affiliations_visitor` (`id` integer AUTO_INCREMENT NOT NULL PRIMARY KEY, `referred_on` datetime(6) NOT NULL, `entry_point` varchar(200) NOT NULL, `successful_on` datetime(6) NULL, `partner_id` integer NOT NULL, `user_id` integer NOT NULL);
ALTER TABLE `affiliations_subscription` ADD CONSTRAINT `affiliations_subscri_partner_id_b871dd29_fk_affiliati` FOREIGN KEY (`partner_id`) REFERENCES `affiliations_partner` (`id`);
ALTER TABLE `affiliations_visitor` ADD CONSTRAINT `affiliations_visitor_partner_id_b8c98003_fk_affiliati` FOREIGN KEY (`partner_id`) REFERENCES `affiliations_partner` (`id`);
ALTER TABLE `affiliations_visitor` ADD CONSTRAINT `affiliations_visitor_user_id_c2525482_fk_auth_user_id` FOREIGN KEY (`user_id`) REFERENCES `auth_user` (`id`);
