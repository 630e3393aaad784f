"""What each known licence asks for, as a table that people maintain; no verdicts, no functions over it.

Sources: the SPDX licence list, the Creative Commons and Korea Open Government Licence texts, and the model
licences as their vendors publish them. Where a text is unsettled for weights, the careful reading is given.
This is documentation help, not legal advice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """One licence: what it allows and what it asks of whoever passes the work on.

    ``share_alike`` lists the licences that a derived work may carry (empty: no such duty); ``carry`` means
    that the licence itself goes along with every derivative; ``names`` are other spellings people write.
    ``outputs`` says what a model licence asks when another model is trained on what this one wrote: nothing, that
    its commercial and naming duties go along (bound), or that it is not done (forbidden).
    """

    title: str
    hub: str | None = None
    link: str | None = None
    commercial: bool = True
    commercial_limit: str | None = None
    derivatives: bool = True
    share_alike: tuple[str, ...] = ()
    attribution: bool = False
    notice: str | None = None
    use_restrictions: str | None = None
    name_prefix: str | None = None
    display: str | None = None
    territory_excluded: tuple[str, ...] = ()
    carry: bool = False
    outputs: Literal["free", "bound", "forbidden"] = "free"
    names: tuple[str, ...] = ()


COPY = "keep the licence text and the copyright notices"
_KOGL = "https://www.kogl.or.kr/info/license.do"
_MULAN = "https://license.coscl.org.cn/"
_EU_UK_KR = ("European Union", "United Kingdom", "South Korea")


def _llama(version: str, hub: str, link: str) -> Terms:
    return Terms(
        title=f"Llama {version} Community License",
        hub=hub,
        link=link,
        commercial_limit="products with more than 700 million monthly users need a licence from Meta",
        notice=f"keep a copy of the licence and a NOTICE file with Meta's Llama {version} attribution line",
        use_restrictions="Meta's acceptable use policy applies to users too",
        name_prefix=None if version == "2" else "Llama",
        display=None if version == "2" else "Built with Llama",
        carry=True,
        outputs="forbidden" if version in ("2", "3") else "bound",
        names=(hub,),
    )


def _free(
    title: str, hub: str | None = None, *, notice: str | None = COPY, names: tuple[str, ...] = ()
) -> Terms:
    return Terms(title=title, hub=hub, attribution=notice is not None, notice=notice, names=names)


def _copyleft(title: str, hub: str | None, accepted: tuple[str, ...]) -> Terms:
    return Terms(title=title, hub=hub, share_alike=accepted, attribution=True, notice=COPY)


def _open_data(
    title: str, link: str | None = None, *, hub: str | None = None, notice: str | None = None,
    names: tuple[str, ...] = (),
) -> Terms:  # fmt: skip
    return Terms(title=title, hub=hub, link=link, attribution=True, notice=notice, names=names)


def _kogl(kind: str, *, commercial: bool = True, derivatives: bool = True, attribution: bool = True) -> Terms:
    return Terms(
        title=f"Korea Open Government License type {kind}",
        link=_KOGL,
        commercial=commercial,
        derivatives=derivatives,
        attribution=attribution,
        use_restrictions="type AI opens the work for the training of models only" if kind == "AI" else None,
        names=(f"KOGL-{kind}", f"KOGL Type {kind}"),
    )


_GOVERNMENT: dict[str, Terms] = {
    # Korea; types 0 and AI since January 2026. A work marked 2 and AI is written `KOGL-2 OR KOGL-AI`.
    "LicenseRef-KOGL-0": _kogl("0", attribution=False),
    "LicenseRef-KOGL-1": _kogl("1"),
    "LicenseRef-KOGL-2": _kogl("2", commercial=False),
    "LicenseRef-KOGL-3": _kogl("3", derivatives=False),
    "LicenseRef-KOGL-4": _kogl("4", commercial=False, derivatives=False),
    "LicenseRef-KOGL-AI": _kogl("AI", attribution=False),
    # China has no licence for the whole country: rules of provinces, and the Mulan licences for works
    "LicenseRef-CN-Public-Data": _open_data(
        "Public data of China opened without conditions",
        notice="name the platform and the department the data came from, and when it was fetched",
        names=("CN-Public-Data", "无条件开放公共数据"),
    ),
    "LicenseRef-MulanOWL-BY-1.0": _open_data(
        "Mulan Open Works License, attribution, version 1", _MULAN, notice=COPY, names=("MulanOWL-BY-1.0",),
    ),
    "LicenseRef-MulanOWL-BY-SA-1.0": Terms(
        title="Mulan Open Works License, attribution and share-alike, version 1", link=_MULAN,
        share_alike=("LicenseRef-MulanOWL-BY-SA-1.0",), attribution=True, notice=COPY,
        names=("MulanOWL-BY-SA-1.0",),
    ),
    # Japan
    "LicenseRef-JP-PDL-1.0": _open_data(
        "Public Data License 1.0 (Japan)",
        "https://www.digital.go.jp/resources/open_data/public_data_license_v1.0",
        notice="say when the content was edited, and do not present it as made by the government",
        names=("PDL-1.0", "JP-PDL-1.0", "公共データ利用規約1.0"),
    ),
    "LicenseRef-JP-GSTU-2.0": _open_data(
        "Government of Japan Standard Terms of Use 2.0", "https://cio.go.jp/policy-opendata",
        notice="say when the content was edited, and do not present it as made by the government",
        names=("GSTU-2.0", "政府標準利用規約2.0"),
    ),
    # Taiwan, India, Singapore
    "OGDL-Taiwan-1.0": _open_data(
        "Taiwan Open Government Data License 1.0", "https://data.gov.tw/license", names=("OGDL",)
    ),
    "LicenseRef-GODL-India": _open_data(
        "Government Open Data License, India (data under NDSAP)",
        "https://www.data.gov.in/government-open-data-license-india",
        notice="publish the attribution statement with the address of the data; claim no endorsement",
        names=("GODL-India", "GODL", "NDSAP"),
    ),
    "LicenseRef-SG-ODL-1.0": _open_data(
        "Singapore Open Data Licence 1.0", "https://data.gov.sg/open-data-licence", names=("SG-ODL-1.0",)
    ),
    # Gulf states
    "LicenseRef-SA-Open-Data": _open_data(
        "Open Data License of Saudi Arabia", "https://open.data.gov.sa/en/pages/policies/license",
        notice="keep a copy of the licence and its notices with the data and what is derived from it",
        names=("SA-Open-Data", "KSA-Open-Data"),
    ),
    "LicenseRef-AE-Open-Data": _open_data(
        "Open data terms of the United Arab Emirates", "https://u.ae/en/footer/open-data",
        notice="name the entity the data came from; do not alter its meaning or claim endorsement",
        names=("AE-Open-Data", "UAE-Open-Data"),
    ),
    # Europe and Canada
    "LicenseRef-EC-Reuse": _open_data(
        "Reuse of documents of the European Commission, Decision 2011/833/EU",
        "https://eur-lex.europa.eu/eli/dec/2011/833/oj",
        notice="do not distort the meaning or message of the documents", names=("EC-Reuse", "EU-Reuse"),
    ),
    "OGL-UK-3.0": _open_data("Open Government Licence 3.0 (United Kingdom)", notice=COPY),
    "OGL-Canada-2.0": _open_data("Open Government Licence 2.0 (Canada)", notice=COPY),
    "etalab-2.0": _open_data(
        "Etalab Open License 2.0 (France)", hub="etalab-2.0", notice=COPY, names=("Licence Ouverte 2.0",)
    ),
    "DL-DE-BY-2.0": _open_data("Data licence Germany, attribution 2.0", notice=COPY),
    "DL-DE-ZERO-2.0": Terms(title="Data licence Germany, Zero 2.0"),
    "NLOD-2.0": _open_data("Norwegian Licence for Open Government Data 2.0", notice=COPY),
}  # fmt: skip
"""Licences of states for what they publish."""

PERMISSION = "LicenseRef-Permission"
"""No licence but a letter to us: what it allows stands under ``rights`` in the data card."""

_GPL2 = ("GPL-2.0-only", "GPL-2.0-or-later")
_GPL3 = ("GPL-3.0-only", "GPL-3.0-or-later", "AGPL-3.0-only", "AGPL-3.0-or-later")
_LGPL = ("LGPL-2.1-only", "LGPL-2.1-or-later", "LGPL-3.0-only", "LGPL-3.0-or-later")

TERMS: dict[str, Terms] = {
    # Public domain and permissive
    "CC0-1.0": _free("Creative Commons Zero 1.0", "cc0-1.0", notice=None, names=("CC0",)),
    "PDDL-1.0": _free("Open Data Commons Public Domain Dedication 1.0", "pddl", notice=None, names=("pddl",)),
    "Unlicense": _free("The Unlicense", "unlicense", notice=None),
    "0BSD": _free("BSD Zero Clause License", notice=None),
    "MIT-0": _free("MIT No Attribution", notice=None),
    "WTFPL": _free("WTFPL", "wtfpl", notice=None),
    "Apache-2.0": _free(
        "Apache License 2.0", "apache-2.0", notice=COPY + ", with the NOTICE file", names=("Apache 2.0",)
    ),
    "MIT": _free("MIT License", "mit"),
    "ISC": _free("ISC License", "isc"),
    "Zlib": _free("zlib License", "zlib"),
    "BSD-2-Clause": _free("BSD 2-Clause License", "bsd-2-clause"),
    "BSD-3-Clause": _free("BSD 3-Clause License", "bsd-3-clause"),
    "BSD-3-Clause-Clear": _free("BSD 3-Clause Clear License", "bsd-3-clause-clear"),
    "BSL-1.0": _free("Boost Software License 1.0", "bsl-1.0"),
    "PSF-2.0": _free("Python Software Foundation License 2.0"),
    "Python-2.0": _free("Python License 2.0"),
    "PostgreSQL": _free("PostgreSQL License", "postgresql"),
    "NCSA": _free("University of Illinois/NCSA License", "ncsa"),
    "AFL-3.0": _free("Academic Free License 3.0", "afl-3.0"),
    "Artistic-2.0": _free("Artistic License 2.0", "artistic-2.0"),
    "ECL-2.0": _free("Educational Community License 2.0", "ecl-2.0"),
    "MS-PL": _free("Microsoft Public License", "ms-pl"),
    "Unicode-3.0": _free("Unicode License 3.0"),
    **_GOVERNMENT,
    # Data licences
    "ODC-By-1.0": _free("Open Data Commons Attribution License 1.0", "odc-by", names=("odc-by",)),
    "CDLA-Permissive-1.0": _free("Community Data License Agreement, Permissive 1.0", "cdla-permissive-1.0"),
    "CDLA-Permissive-2.0": _free("Community Data License Agreement, Permissive 2.0", "cdla-permissive-2.0"),
    "ODbL-1.0": _copyleft("Open Database License 1.0", "odbl", ("ODbL-1.0",)),
    "CDLA-Sharing-1.0": _copyleft(
        "Community Data License Agreement, Sharing 1.0", "cdla-sharing-1.0", ("CDLA-Sharing-1.0",)
    ),
    PERMISSION: Terms(title="permission by letter", names=("permission letter", "permission-letter")),
    # Copyleft
    "MPL-2.0": _copyleft("Mozilla Public License 2.0", "mpl-2.0", ("MPL-2.0", *_GPL2, *_GPL3, *_LGPL)),
    "EPL-1.0": _copyleft("Eclipse Public License 1.0", "epl-1.0", ("EPL-1.0", "EPL-2.0")),
    "EPL-2.0": _copyleft("Eclipse Public License 2.0", "epl-2.0", ("EPL-2.0",)),
    "EUPL-1.2": _copyleft("European Union Public Licence 1.2", "eupl-1.2", ("EUPL-1.2", *_GPL2, *_GPL3)),
    "OSL-3.0": _copyleft("Open Software License 3.0", "osl-3.0", ("OSL-3.0",)),
    "GPL-2.0-only": _copyleft("GNU GPL 2.0", "gpl-2.0", ("GPL-2.0-only",)),
    "GPL-2.0-or-later": _copyleft("GNU GPL 2.0 or later", "gpl-2.0", (*_GPL2, *_GPL3)),
    "GPL-3.0-only": _copyleft("GNU GPL 3.0", "gpl-3.0", _GPL3),
    "GPL-3.0-or-later": _copyleft("GNU GPL 3.0 or later", "gpl-3.0", _GPL3),
    "LGPL-2.1-only": _copyleft("GNU LGPL 2.1", "lgpl-2.1", (*_LGPL[:2], *_GPL2, *_GPL3)),
    "LGPL-2.1-or-later": _copyleft("GNU LGPL 2.1 or later", "lgpl-2.1", (*_LGPL, *_GPL2, *_GPL3)),
    "LGPL-3.0-only": _copyleft("GNU LGPL 3.0", "lgpl-3.0", (*_LGPL[2:], *_GPL3)),
    "LGPL-3.0-or-later": _copyleft("GNU LGPL 3.0 or later", "lgpl-3.0", (*_LGPL[2:], *_GPL3)),
    "AGPL-3.0-only": _copyleft("GNU AGPL 3.0", "agpl-3.0", _GPL3[2:]),
    "AGPL-3.0-or-later": _copyleft("GNU AGPL 3.0 or later", "agpl-3.0", _GPL3[2:]),
    "GFDL-1.3-only": _copyleft("GNU FDL 1.3", "gfdl", ("GFDL-1.3-only", "GFDL-1.3-or-later")),
    "GFDL-1.3-or-later": _copyleft("GNU FDL 1.3 or later", "gfdl", ("GFDL-1.3-only", "GFDL-1.3-or-later")),
    # Licences of model vendors
    "LicenseRef-Llama-2": _llama("2", "llama2", "https://ai.meta.com/llama/license/"),
    "LicenseRef-Llama-3": _llama("3", "llama3", "https://www.llama.com/llama3/license/"),
    "LicenseRef-Llama-3.1": _llama("3.1", "llama3.1", "https://www.llama.com/llama3_1/license/"),
    "LicenseRef-Llama-3.2": _llama("3.2", "llama3.2", "https://www.llama.com/llama3_2/license/"),
    "LicenseRef-Llama-3.3": _llama("3.3", "llama3.3", "https://www.llama.com/llama3_3/license/"),
    "LicenseRef-Llama-4": _llama("4", "llama4", "https://www.llama.com/llama4/license/"),
    "LicenseRef-Gemma": Terms(
        title="Gemma Terms of Use", hub="gemma", link="https://ai.google.dev/gemma/terms",
        notice="keep a copy of the terms and the Gemma NOTICE line, and say which files were modified",
        use_restrictions="Google's prohibited use policy must be passed on as an enforceable provision",
        carry=True, outputs="bound", names=("gemma",),
    ),
    "LicenseRef-EXAONE-NC": Terms(
        title="EXAONE AI Model License Agreement, NC", commercial=False, name_prefix="EXAONE",
        notice="keep a copy of the licence",
        use_restrictions="commercial use of the model, of derivatives and of their outputs is forbidden",
        carry=True, outputs="bound",
        names=("LicenseRef-EXAONE", "LicenseRef-EXAONE-1.1-NC", "LicenseRef-EXAONE-1.2-NC", "exaone"),
    ),
    "LicenseRef-K-EXAONE": Terms(
        title="K-EXAONE AI Model License Agreement", name_prefix="K-EXAONE", carry=True,
        commercial_limit="the licence sets conditions on commercial use: read it",
        notice="keep a copy of the licence", names=("k-exaone",),
    ),
    "LicenseRef-HyperCLOVAX-SEED": Terms(
        title="HyperCLOVA X SEED Model License Agreement", name_prefix="HyperCLOVA X",
        display="Powered by HyperCLOVA X", notice="keep a copy of the licence and its NOTICE line",
        commercial_limit="more than 10 million monthly users need a licence from NAVER",
        use_restrictions="no product that competes directly with NAVER's; NAVER may amend the terms",
        carry=True, names=("hyperclovax-seed", "LicenseRef-HyperCLOVA-X-SEED"),
    ),
    "LicenseRef-Qwen": Terms(
        title="Tongyi Qianwen License Agreement", display="Built with Qwen",
        notice="keep a copy of the agreement",
        commercial_limit="more than 100 million monthly users need a licence from Alibaba Cloud",
        carry=True, outputs="bound", names=("LicenseRef-Tongyi-Qianwen", "qwen", "tongyi-qianwen"),
    ),
    "LicenseRef-Qwen-Research": Terms(
        title="Qwen Research License Agreement", commercial=False, display="Built with Qwen",
        notice="keep a copy of the agreement and its Notice line", carry=True, outputs="bound",
        names=("qwen-research",),
    ),
    "LicenseRef-Hunyuan": Terms(
        title="Tencent Hunyuan Community License Agreement", territory_excluded=_EU_UK_KR,
        commercial_limit="more than 100 million monthly users need a licence from Tencent",
        notice="keep a copy of the agreement and its Notice line",
        use_restrictions="Tencent's acceptable use policy; outputs may not be used to improve other models",
        carry=True, outputs="forbidden", names=("LicenseRef-Tencent-Hunyuan-Community", "tencent-hunyuan-community"),
    ),
    "LicenseRef-Solar-Apache": Terms(
        title="Solar-Apache License 2.0", name_prefix="Solar", display="Built with Solar", attribution=True,
        notice=COPY, use_restrictions="no use by or for the competitors that the licence names",
        carry=True, names=("LicenseRef-Upstage-Solar", "upstage-solar"),
    ),
    "LicenseRef-Kanana": Terms(
        title="Kanana License Agreement", display="Powered by Kanana",
        notice="keep a copy of the agreement",
        commercial_limit="the licence sets conditions on commercial use: read it",
        carry=True, names=("kanana",),
    ),
    "LicenseRef-openPangu": Terms(
        title="openPangu Model License Agreement", display="Powered by openPangu",
        notice="keep a copy of the licence and its trademark notice", territory_excluded=_EU_UK_KR[:1],
        carry=True, names=("openpangu",),
    ),
    "LicenseRef-DeepSeek": Terms(
        title="DeepSeek License Agreement", notice="keep a copy of the licence",
        use_restrictions="the use restrictions of its attachment must be passed on",
        carry=True, names=("deepseek",),
    ),
}  # fmt: skip
"""Canonical SPDX key -> terms; Creative Commons keys are derived from their names in ``licences``."""

_HUB_IDS = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc
cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0
cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1
eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c
ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3
llama3.1 llama3.2 llama3.3 llama4 grok2-community gemma unknown other
"""

HUB_LICENCES: frozenset[str] = frozenset(_HUB_IDS.split())
"""Licence ids the Hub accepts in a header (huggingface.co/docs/hub/repositories-licenses)."""
