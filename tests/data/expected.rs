//! What is expected of the fixtures and of the real files: their form, the digest of their requests
//! as it was before there were cases, and how many probes they have by key.

use incise::data::Form;

/// A file, its form, the digest of its requests, and its probes by key.
pub type Expected = (&'static str, Form, &'static str, &'static [(&'static str, usize)]);

/// Our fixtures.
pub const FIXTURES: &[Expected] = &[
    (
        "native.jsonl",
        Form::Native,
        "fe4a886d55faa06c9dd794ea8af6da08646b3b622e318ff0d65d7f3cf87680f5",
        &[
            ("locality", 1),
            ("locality.forgetfulness", 1),
            ("neighbourhood", 2),
            ("paraphrase", 1),
            ("portability.reasoning", 1),
        ],
    ),
    (
        "counterfact.json",
        Form::CounterFact,
        "b7a1039d35306b465830e56531f8be53fd6039fdf55ae868138ed37cdf101dfa",
        &[("attribute", 4), ("generation", 4), ("neighbourhood", 6), ("paraphrase", 4)],
    ),
    (
        "counterfact_sets.json",
        Form::CounterFact,
        "31bb3a8ec17e9559b258a4651e383adbdf65640175a0f4e90279e3a23d121ec6",
        &[
            ("attribute", 6),
            ("generation", 6),
            ("locality.distracting_neighbour", 3),
            ("locality.other_attribution", 1),
            ("neighbourhood", 9),
            ("paraphrase", 6),
            ("portability.one_hop", 2),
            ("portability.subject_replace", 1),
        ],
    ),
    (
        "counterfact_easyedit.json",
        Form::EasyEdit,
        "5d79a906748c2c249ef57c714db2379b1bb81ea9568f3cfe7468a5916932a0f0",
        &[("locality.neighbourhood", 2), ("paraphrase", 2)],
    ),
    (
        "zsre.json",
        Form::Zsre,
        "a2c009ca1cb55a6a49f88698df7a2df222666d712478a0ed898c57b7f1bb0763",
        &[("locality.unrelated", 2), ("paraphrase", 2), ("portability.one_hop", 1)],
    ),
    (
        "zsre_sets.json",
        Form::Zsre,
        "f330594a90e9918f24a36d2d707b67b6b440c4e60f6b660089e9148b18cbc4ff",
        &[
            ("paraphrase", 2),
            ("portability.inverse_relation", 1),
            ("portability.subject_replace", 1),
        ],
    ),
    (
        "knowedit.json",
        Form::EasyEdit,
        "c60ad35589549106b3d4fd7c0e887bdcf54f5bfc1789a8557af21887b03113c3",
        &[
            ("locality.forgetfulness", 1),
            ("locality.relation_specificity", 3),
            ("paraphrase", 1),
            ("paraphrase.machine_written", 2),
            ("portability.logical_generalization", 1),
            ("portability.reasoning", 4),
            ("portability.subject_aliasing", 2),
        ],
    ),
    (
        "qaedit.json",
        Form::QaEdit,
        "ece5b6c9e3911aee4f5729503899540ce6f78e3fda23b4f0227ef03a90ae6f2a",
        &[("locality.unrelated", 3), ("paraphrase", 2)],
    ),
    (
        "wikibigedit.json",
        Form::WikiBigEdit,
        "f07a04ed88cbf0f62fd36aed4b96f4b322e02d575b0b59cf71dbb076ee388229",
        &[
            ("locality.unrelated", 2),
            ("paraphrase", 2),
            ("paraphrase.persona", 2),
            ("portability.multi_hop", 1),
        ],
    ),
    (
        "mquake.json",
        Form::Mquake,
        "a2552b4fc6ac5c70c79082b790cffc2641b5f69c3cacdc90b4d04dead456498a",
        &[("paraphrase.question", 2), ("portability.multi_hop", 3)],
    ),
    (
        "qna.json",
        Form::Qna,
        "dfacc38c8c485023e549770d5d50df813ed4e6322f01d72b697765c0431e2970",
        &[("paraphrase.question", 2)],
    ),
];

/// The real files, without the records that are broken.
pub const REAL: &[Expected] = &[
    (
        "counterfact/counterfact-1200.json",
        Form::CounterFact,
        "e96f74ff76423d399014bf81a0b226758d78e23a60a4177b25489f8512c5fd9d",
        &[
            ("attribute", 12000),
            ("generation", 12000),
            ("neighbourhood", 12000),
            ("paraphrase", 2400),
        ],
    ),
    (
        "counterfact/counterfact-edit-10000.json",
        Form::EasyEdit,
        "9ad70166c3ec5e6d08cccea495449c4b6877bbb889ac941ca97f07b4aca8d091",
        &[("locality.neighbourhood", 10000), ("paraphrase", 10000)],
    ),
    (
        "factlm-gpt2/counterfact.json",
        Form::CounterFact,
        "c3113932342135614b733d82db0bfb97c3b9a6fa69e5fc0b1b1248d5affa0848",
        &[("attribute", 4000), ("generation", 4000), ("neighbourhood", 4000), ("paraphrase", 800)],
    ),
    (
        "knowedit/ZsRE-test-all.json",
        Form::EasyEdit,
        "2640ebcc97149405d796733ac37493da73052388524bd2de62bae7f6e1bc8559",
        &[
            ("locality.relation_specificity", 2602),
            ("paraphrase", 1301),
            ("portability.logical_generalization", 267),
            ("portability.reasoning", 771),
            ("portability.subject_aliasing", 263),
        ],
    ),
    (
        "knowedit/wiki_counterfact_test_cf.json",
        Form::EasyEdit,
        "1c7b1f90cbc1b12477507cf1aeecdd0778f64539dc8a6208309421be6a71585c",
        &[
            ("locality.forgetfulness", 468),
            ("locality.relation_specificity", 5488),
            ("paraphrase.machine_written", 8884),
            ("portability.logical_generalization", 483),
            ("portability.reasoning", 2226),
            ("portability.subject_aliasing", 2408),
        ],
    ),
    (
        "knowedit/wiki_recent_test_from_requests.json",
        Form::EasyEdit,
        "94f1ed9a47b1f891ed72564e521af12b7fda43305cd2a7fb8efbfa5e248261c8",
        &[
            ("locality.forgetfulness", 842),
            ("locality.relation_specificity", 5363),
            ("portability.logical_generalization", 769),
            ("portability.reasoning", 9689),
            ("portability.subject_aliasing", 1243),
        ],
    ),
    (
        "mquake/MQuAKE-hard.json",
        Form::Mquake,
        "43137f359060caf77414773d49c8cfb938e9514a30ab09797337696b4122d9e8",
        &[("paraphrase.question", 1716), ("portability.multi_hop", 1287)],
    ),
    (
        "portability/counterfact_distracting_neighbor_and_other_attribution.json",
        Form::CounterFact,
        "45a66a563978cb3a359ec55e30faacd206204eb478f96b0929700d8b977d8dec",
        &[
            ("attribute", 8040),
            ("generation", 8040),
            ("locality.distracting_neighbour", 8040),
            ("locality.other_attribution", 804),
            ("neighbourhood", 8040),
            ("paraphrase", 1608),
            ("portability.one_hop", 804),
        ],
    ),
    (
        "portability/counterfact_portability_gpt4.json",
        Form::CounterFact,
        "5572a7d955588feb83766281981c7efb568ee309d896b3e49ca2265dda1e2a81",
        &[
            ("attribute", 10310),
            ("generation", 10310),
            ("neighbourhood", 10310),
            ("paraphrase", 2062),
            ("portability.one_hop", 1031),
        ],
    ),
    (
        "portability/counterfact_subject_replace.json",
        Form::CounterFact,
        "7ec6a22098c77d50edbebb198dfe6e261f44738fc00a6eeb0d9597f1fdc7bb72",
        &[
            ("attribute", 2130),
            ("generation", 2130),
            ("neighbourhood", 2130),
            ("paraphrase", 426),
            ("portability.subject_replace", 213),
        ],
    ),
    (
        "portability/zsre_inverse_relation.json",
        Form::Zsre,
        "48c9a984103cd046f4c421c227747f6d1f2def2cce997fc11a0cfa96d43bf6e9",
        &[("paraphrase", 380), ("portability.inverse_relation", 380)],
    ),
    (
        "portability/zsre_subject_replace.json",
        Form::Zsre,
        "a5a8f4af41bafefb64b6a843b806d9d2911ab469ece0e6af361c83f6daf633cf",
        &[("paraphrase", 288), ("portability.subject_replace", 288)],
    ),
    (
        "qna/counterfact_qna.json",
        Form::Qna,
        "567b9f9f71d3c95dc2c9ab3414e0f5dcf9f446237a384033531d4f74157e3933",
        &[("paraphrase.question", 1000)],
    ),
    (
        "wikibigedit/wikibigedit.json",
        Form::EasyEdit,
        "d2cf49f5c777c1080f4484b90c4ffdb7185b95892b05eb5167120a890008c33b",
        &[("locality.neighbourhood", 2000), ("paraphrase", 2000)],
    ),
    (
        "wild/qaedit.json",
        Form::QaEdit,
        "91ed6d949df0ecbc52fa3b37e6f63522a4ee231c003b46df05a3a5e2f6eaa451",
        &[("locality.unrelated", 3500), ("paraphrase", 700)],
    ),
    (
        "zsre/zsre_locft.json",
        Form::Zsre,
        "698f4d2da4a76561f1c4111f1720c2cbbb4d883d6486bbb05c029a7079b7e083",
        &[("locality.unrelated", 2000), ("paraphrase", 2000)],
    ),
    (
        "zsre/zsre_mend_eval_portability_gpt4.json",
        Form::Zsre,
        "8f7ff5efa96bfc9c9164fc7048788851a97fca24ee0dc5b93e0d17300430dd27",
        &[("locality.unrelated", 1037), ("paraphrase", 1037), ("portability.one_hop", 1037)],
    ),
];
